import faulthandler
import unittest

from digits import digits


def setUpModule():
    faulthandler.dump_traceback_later(10, exit=True)


class TestDigits(unittest.TestCase):
    def test_1(self):
        self.assertEqual(digits(5), 5)

    def test_2(self):
        self.assertEqual(digits(54), 5)

    def test_3(self):
        self.assertEqual(digits(120), 1)

    def test_4(self):
        self.assertEqual(digits(5014), 5)

    def test_5(self):
        self.assertEqual(digits(98765), 315)

    def test_6(self):
        self.assertEqual(digits(5576543), 2625)

    def test_7(self):
        self.assertEqual(digits(2468), 0)


if __name__ == "__main__":
    unittest.main()
