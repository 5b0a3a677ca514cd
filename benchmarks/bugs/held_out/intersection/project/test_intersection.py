import faulthandler
import unittest

from intersection import intersection


def setUpModule():
    faulthandler.dump_traceback_later(10, exit=True)


class TestIntersection(unittest.TestCase):
    def test_1(self):
        self.assertEqual(intersection((1, 2), (2, 3)), 'NO')

    def test_2(self):
        self.assertEqual(intersection((-1, 1), (0, 4)), 'NO')

    def test_3(self):
        self.assertEqual(intersection((-3, -1), (-5, 5)), 'YES')

    def test_4(self):
        self.assertEqual(intersection((-2, 2), (-4, 0)), 'YES')

    def test_5(self):
        self.assertEqual(intersection((-11, 2), (-1, -1)), 'NO')

    def test_6(self):
        self.assertEqual(intersection((1, 2), (3, 5)), 'NO')

    def test_7(self):
        self.assertEqual(intersection((1, 2), (1, 2)), 'NO')

    def test_8(self):
        self.assertEqual(intersection((-2, -2), (-3, -2)), 'NO')


if __name__ == "__main__":
    unittest.main()
