import unittest

from orderdesk.orders import Order
from orderdesk.reports import best_sellers, monthly_report

REPORT = """\
orders:        3
average order: 43.84 EUR
typical order: 50.00 EUR
from/to:       15.94 EUR / 65.59 EUR
best sellers:  spoon (12), mug (2), bowl (1)"""


class ReportTest(unittest.TestCase):
    def setUp(self):
        self.orders = [Order("Ada"), Order("Grace"), Order("Edsger")]
        for order, lines in zip(self.orders, ([("mug", 1, 1099)], [("mug", 1, 5419), ("spoon", 12, 100)], [("bowl", 1, 5000)])):
            for line in lines:
                order.add(*line)

    def test_best_sellers(self):
        self.assertEqual(best_sellers(self.orders, 2), [("spoon", 12), ("mug", 2)])

    def test_a_month_in_text(self):
        self.maxDiff = None
        self.assertEqual(monthly_report(self.orders), REPORT)

    def test_a_month_without_orders(self):
        self.assertIn("best sellers:  none", monthly_report([]))
