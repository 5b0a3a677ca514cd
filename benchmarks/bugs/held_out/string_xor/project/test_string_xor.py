import faulthandler
import unittest

from string_xor import string_xor


def setUpModule():
    faulthandler.dump_traceback_later(10, exit=True)


class TestStringXor(unittest.TestCase):
    def test_1(self):
        self.assertEqual(string_xor('111000', '101010'), '010010')

    def test_2(self):
        self.assertEqual(string_xor('1', '1'), '0')

    def test_3(self):
        self.assertEqual(string_xor('0101', '0000'), '0101')


if __name__ == "__main__":
    unittest.main()
