import unittest

from orderdesk.orders import Order
from orderdesk.stock import OutOfStock, Warehouse


def order(**pieces):
    made = Order("Ada")
    for article, count in pieces.items():
        made.add(article, count, 100)
    return made


class WarehouseTest(unittest.TestCase):
    def setUp(self):
        self.warehouse = Warehouse({"mug": 5, "plate": 3})

    def test_what_is_reserved_is_no_longer_left(self):
        self.warehouse.reserve(order(mug=2))
        self.assertEqual(self.warehouse.left("mug"), 3)

    def test_an_order_is_reserved_whole_or_not_at_all(self):
        with self.assertRaises(OutOfStock) as caught:
            self.warehouse.reserve(order(mug=1, plate=4))
        self.assertEqual((caught.exception.article, caught.exception.left), ("plate", 3))
        self.assertEqual(self.warehouse.left("mug"), 5)

    def test_shipping_takes_pieces_off_the_shelf(self):
        wanted = order(mug=5)
        self.warehouse.reserve(wanted)
        self.warehouse.ship(wanted)
        self.assertEqual(self.warehouse.left("mug"), 0)
