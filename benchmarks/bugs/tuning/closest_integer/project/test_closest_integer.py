import faulthandler
import unittest

from closest_integer import closest_integer


def setUpModule():
    faulthandler.dump_traceback_later(10, exit=True)


class TestClosestInteger(unittest.TestCase):
    def test_1(self):
        self.assertEqual(closest_integer('10'), 10)

    def test_2(self):
        self.assertEqual(closest_integer('14.5'), 15)

    def test_3(self):
        self.assertEqual(closest_integer('-15.5'), -16)

    def test_4(self):
        self.assertEqual(closest_integer('15.3'), 15)

    def test_5(self):
        self.assertEqual(closest_integer('0'), 0)


if __name__ == "__main__":
    unittest.main()
