import unittest

from orderdesk.discounts import apply_voucher, quantity_discount, voucher_discount


class QuantityDiscountTest(unittest.TestCase):
    def test_a_few_pieces_cost_the_full_price(self):
        self.assertEqual(quantity_discount(1), 0)
        self.assertEqual(quantity_discount(9), 0)

    def test_ten_pieces_reach_the_first_tier(self):
        self.assertEqual(quantity_discount(10), 5)
        self.assertEqual(quantity_discount(49), 5)

    def test_large_orders_get_the_best_tier_they_reach(self):
        self.assertEqual(quantity_discount(50), 10)
        self.assertEqual(quantity_discount(99), 10)
        self.assertEqual(quantity_discount(250), 15)


class VoucherTest(unittest.TestCase):
    def test_spelling_does_not_matter(self):
        self.assertEqual(voucher_discount(" welcome "), 10)

    def test_an_unknown_voucher_is_refused(self):
        with self.assertRaises(ValueError):
            voucher_discount("HELLO")

    def test_without_a_voucher_everything_is_paid(self):
        self.assertEqual(apply_voucher(1999, ""), 1999)
        self.assertEqual(apply_voucher(1999, "SORRY"), 1599)
