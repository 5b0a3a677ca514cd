import faulthandler
import unittest

from by_length import by_length


def setUpModule():
    faulthandler.dump_traceback_later(10, exit=True)


class TestByLength(unittest.TestCase):
    def test_1(self):
        self.assertEqual(by_length([2, 1, 1, 4, 5, 8, 2, 3]), ['Eight', 'Five', 'Four', 'Three', 'Two', 'Two', 'One', 'One'])

    def test_2(self):
        self.assertEqual(by_length([]), [])

    def test_3(self):
        self.assertEqual(by_length([1, -1, 55]), ['One'])

    def test_4(self):
        self.assertEqual(by_length([1, -1, 3, 2]), ['Three', 'Two', 'One'])

    def test_5(self):
        self.assertEqual(by_length([9, 4, 8]), ['Nine', 'Eight', 'Four'])


if __name__ == "__main__":
    unittest.main()
