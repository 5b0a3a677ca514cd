import faulthandler
import unittest

from vowels_count import vowels_count


def setUpModule():
    faulthandler.dump_traceback_later(10, exit=True)


class TestVowelsCount(unittest.TestCase):
    def test_1(self):
        self.assertEqual(vowels_count('abcde'), 2)

    def test_2(self):
        self.assertEqual(vowels_count('Alone'), 3)

    def test_3(self):
        self.assertEqual(vowels_count('key'), 2)

    def test_4(self):
        self.assertEqual(vowels_count('bye'), 1)

    def test_5(self):
        self.assertEqual(vowels_count('keY'), 2)

    def test_6(self):
        self.assertEqual(vowels_count('bYe'), 1)

    def test_7(self):
        self.assertEqual(vowels_count('ACEDY'), 3)


if __name__ == "__main__":
    unittest.main()
