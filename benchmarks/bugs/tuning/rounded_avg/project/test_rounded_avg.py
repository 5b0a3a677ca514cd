import faulthandler
import unittest

from rounded_avg import rounded_avg


def setUpModule():
    faulthandler.dump_traceback_later(10, exit=True)


class TestRoundedAvg(unittest.TestCase):
    def test_1(self):
        self.assertEqual(rounded_avg(1, 5), '0b11')

    def test_2(self):
        self.assertEqual(rounded_avg(7, 13), '0b1010')

    def test_3(self):
        self.assertEqual(rounded_avg(964, 977), '0b1111001010')

    def test_4(self):
        self.assertEqual(rounded_avg(996, 997), '0b1111100100')

    def test_5(self):
        self.assertEqual(rounded_avg(560, 851), '0b1011000010')

    def test_6(self):
        self.assertEqual(rounded_avg(185, 546), '0b101101110')

    def test_7(self):
        self.assertEqual(rounded_avg(362, 496), '0b110101101')

    def test_8(self):
        self.assertEqual(rounded_avg(350, 902), '0b1001110010')

    def test_9(self):
        self.assertEqual(rounded_avg(197, 233), '0b11010111')

    def test_10(self):
        self.assertEqual(rounded_avg(7, 5), -1)

    def test_11(self):
        self.assertEqual(rounded_avg(5, 1), -1)

    def test_12(self):
        self.assertEqual(rounded_avg(5, 5), '0b101')


if __name__ == "__main__":
    unittest.main()
