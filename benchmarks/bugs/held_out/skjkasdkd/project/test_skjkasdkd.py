import faulthandler
import unittest

from skjkasdkd import skjkasdkd


def setUpModule():
    faulthandler.dump_traceback_later(10, exit=True)


class TestSkjkasdkd(unittest.TestCase):
    def test_1(self):
        self.assertEqual(skjkasdkd([0, 3, 2, 1, 3, 5, 7, 4, 5, 5, 5, 2, 181, 32, 4, 32, 3, 2, 32, 324, 4, 3]), 10)

    def test_2(self):
        self.assertEqual(skjkasdkd([1, 0, 1, 8, 2, 4597, 2, 1, 3, 40, 1, 2, 1, 2, 4, 2, 5, 1]), 25)

    def test_3(self):
        self.assertEqual(skjkasdkd([1, 3, 1, 32, 5107, 34, 83278, 109, 163, 23, 2323, 32, 30, 1, 9, 3]), 13)

    def test_4(self):
        self.assertEqual(skjkasdkd([0, 724, 32, 71, 99, 32, 6, 0, 5, 91, 83, 0, 5, 6]), 11)

    def test_5(self):
        self.assertEqual(skjkasdkd([0, 81, 12, 3, 1, 21]), 3)

    def test_6(self):
        self.assertEqual(skjkasdkd([0, 8, 1, 2, 1, 7]), 7)

    def test_7(self):
        self.assertEqual(skjkasdkd([8191]), 19)

    def test_8(self):
        self.assertEqual(skjkasdkd([8191, 123456, 127, 7]), 19)

    def test_9(self):
        self.assertEqual(skjkasdkd([127, 97, 8192]), 10)


if __name__ == "__main__":
    unittest.main()
