import faulthandler
import unittest

from sum_squares import sum_squares


def setUpModule():
    faulthandler.dump_traceback_later(10, exit=True)


class TestSumSquares(unittest.TestCase):
    def test_1(self):
        self.assertEqual(sum_squares([1, 2, 3]), 6)

    def test_2(self):
        self.assertEqual(sum_squares([1, 4, 9]), 14)

    def test_3(self):
        self.assertEqual(sum_squares([]), 0)

    def test_4(self):
        self.assertEqual(sum_squares([1, 1, 1, 1, 1, 1, 1, 1, 1]), 9)

    def test_5(self):
        self.assertEqual(sum_squares([-1, -1, -1, -1, -1, -1, -1, -1, -1]), -3)

    def test_6(self):
        self.assertEqual(sum_squares([0]), 0)

    def test_7(self):
        self.assertEqual(sum_squares([-1, -5, 2, -1, -5]), -126)

    def test_8(self):
        self.assertEqual(sum_squares([-56, -99, 1, 0, -2]), 3030)

    def test_9(self):
        self.assertEqual(sum_squares([-1, 0, 0, 0, 0, 0, 0, 0, -1]), 0)

    def test_10(self):
        self.assertEqual(sum_squares([-16, -9, -2, 36, 36, 26, -20, 25, -40, 20, -4, 12, -26, 35, 37]), -14196)

    def test_11(self):
        self.assertEqual(sum_squares([-1, -3, 17, -1, -15, 13, -1, 14, -14, -12, -5, 14, -14, 6, 13, 11, 16, 16, 4, 10]), -1448)


if __name__ == "__main__":
    unittest.main()
