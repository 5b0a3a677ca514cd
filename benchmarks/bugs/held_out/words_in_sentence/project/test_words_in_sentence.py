import faulthandler
import unittest

from words_in_sentence import words_in_sentence


def setUpModule():
    faulthandler.dump_traceback_later(10, exit=True)


class TestWordsInSentence(unittest.TestCase):
    def test_1(self):
        self.assertEqual(words_in_sentence('This is a test'), 'is')

    def test_2(self):
        self.assertEqual(words_in_sentence('lets go for swimming'), 'go for')

    def test_3(self):
        self.assertEqual(words_in_sentence('there is no place available here'), 'there is no place')

    def test_4(self):
        self.assertEqual(words_in_sentence('Hi I am Hussein'), 'Hi am Hussein')

    def test_5(self):
        self.assertEqual(words_in_sentence('go for it'), 'go for it')

    def test_6(self):
        self.assertEqual(words_in_sentence('here'), '')

    def test_7(self):
        self.assertEqual(words_in_sentence('here is'), 'is')


if __name__ == "__main__":
    unittest.main()
