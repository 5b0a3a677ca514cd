import unittest

from orderdesk.money import format_cents, less_percent, percent_of


class MoneyTest(unittest.TestCase):
    def test_half_a_cent_is_rounded_up(self):
        self.assertEqual(percent_of(50, 5), 3)
        self.assertEqual(percent_of(49, 5), 2)

    def test_a_discount_is_taken_off(self):
        self.assertEqual(less_percent(1000, 15), 850)
        self.assertEqual(less_percent(1000, 0), 1000)

    def test_amounts_are_written_with_two_decimals(self):
        self.assertEqual(format_cents(5), "0.05 EUR")
        self.assertEqual(format_cents(1234567), "12,345.67 EUR")
        self.assertEqual(format_cents(-250), "-2.50 EUR")
        self.assertEqual(format_cents(99.6), "1.00 EUR")
