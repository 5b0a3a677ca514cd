import unittest

from orderdesk.figures import average, median, spread


class FiguresTest(unittest.TestCase):
    def test_no_amounts(self):
        self.assertEqual(average([]), 0)
        self.assertEqual(median([]), 0)
        self.assertEqual(spread([]), (0, 0))

    def test_average(self):
        self.assertEqual(average([1000, 2000, 6000]), 3000)

    def test_spread(self):
        self.assertEqual(spread([2000, 9900, 1000]), (1000, 9900))

    def test_median(self):
        self.assertEqual(median([9900, 1000, 2000]), 2000)
        self.assertEqual(median([4000, 1000, 3000, 2000]), 2500)
