import unittest

from orderdesk import Order
from orderdesk.reports import average, best_sellers, median


class ReportTest(unittest.TestCase):
    def test_a_month_without_orders(self):
        self.assertEqual(average([]), 0)
        self.assertEqual(median([]), 0)

    def test_average_order(self):
        self.assertEqual(average([1000, 2000, 6000]), 3000)

    def test_typical_order(self):
        self.assertEqual(median([9900, 1000, 2000]), 2000)
        self.assertEqual(median([4000, 1000, 3000, 2000]), 2500)

    def test_best_sellers(self):
        first, second = Order("Ada"), Order("Grace")
        first.add("mug", 2, 1099)
        first.add("spoon", 12, 100)
        second.add("mug", 5, 1099)
        second.add("pan", 1, 5000)
        self.assertEqual(best_sellers([first, second], 2), [("spoon", 12), ("mug", 7)])
