import unittest

from orderdesk.invoice import render
from orderdesk.orders import Order

INVOICE = """\
Invoice for Grace
------------------------------------------------
2 x mug                                21.98 EUR
10 x spoon (-5 %)                       9.50 EUR
with voucher WELCOME                   28.33 EUR
shipping                                4.95 EUR
------------------------------------------------
to pay                                 33.28 EUR"""


class OrderTest(unittest.TestCase):
    def test_small_orders_pay_for_shipping(self):
        order = Order("Ada")
        order.add("mug", 1, 1099)
        self.assertEqual(order.total, 1099 + 495)

    def test_larger_orders_are_shipped_free(self):
        order = Order("Ada")
        order.add("pan", 1, 5000)
        self.assertEqual(order.total, 5000)

    def test_a_line_needs_a_piece(self):
        with self.assertRaises(ValueError):
            Order("Ada").add("mug", 0, 1099)

    def test_the_invoice_lists_what_is_to_pay(self):
        order = Order("Grace", voucher="WELCOME")
        order.add("mug", 2, 1099)
        order.add("spoon", 10, 100)
        self.assertEqual(render(order), INVOICE)
