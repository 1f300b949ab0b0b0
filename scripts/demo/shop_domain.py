"""The online shop tools: unknown to the base model, taught by the `shop` adapter."""

import random

import words
from grammar import Slot, Tool

DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


def item(rng: random.Random, split: str) -> str:
    """A thing to buy: `bread`, `red scarf`, `trevos`."""
    thing = words.word(rng, split)
    return f"{words.adjective(rng)} {thing}" if rng.random() < 0.5 else thing


def quantity(rng: random.Random, split: str) -> str:
    return words.number(rng, 2, 40, split)


def price(rng: random.Random, split: str) -> str:
    return words.number(rng, 5, 500, split)


def day(rng: random.Random, split: str) -> str:
    return rng.choice(DAYS)


ITEM = Slot(make=item, description="Name of the article")
QUANTITY = Slot(make=quantity, description="How many", type="integer")

ADD_TO_CART = Tool(
    name="add_to_cart",
    description="Put an article into the cart.",
    slots={"item": ITEM, "quantity": QUANTITY},
    required=("item",),
    train=(
        "add {item} to my cart",
        "add {item} to the cart",
        "put {item} in my cart",
        "put {item} into the basket",
        "i want to buy {item}",
        "{item} in the cart",
        "add {quantity} {item} to my cart",
        "add {quantity} {item} to the basket",
        "put {quantity} {item} in the cart",
        "put {quantity} {item} into my basket",
        "i want to buy {quantity} {item}",
        "i will take {quantity} {item}",
        "{quantity} {item} in the cart",
    ),
    held_out=(
        "add {item} to my basket",
        "put {item} in the basket",
        "i will take {item}",
        "put {quantity} {item} in my cart",
        "add {quantity} {item} to the cart",
        "i want {quantity} {item} in my cart",
    ),
)

REMOVE_FROM_CART = Tool(
    name="remove_from_cart",
    description="Take an article out of the cart.",
    slots={"item": ITEM},
    required=("item",),
    train=(
        "remove {item} from my cart",
        "remove {item} from the basket",
        "take {item} out of the cart",
        "take {item} out of my basket",
        "delete {item} from the cart",
        "i do not want {item} any more",
        "throw {item} out of the cart",
        "drop {item} from my basket",
    ),
    held_out=(
        "remove {item} from the cart",
        "take {item} out of my cart",
        "delete {item} from my basket",
        "throw {item} out of my basket",
    ),
)

SEARCH_SHOP = Tool(
    name="search_shop",
    description="Search the shop.",
    slots={
        "max_price": Slot(make=price, description="Highest price", type="integer"),
        "query": Slot(make=item, description="What to look for"),
    },
    required=("query",),
    train=(
        "search the shop for {query}",
        "search for {query}",
        "show me {query}",
        "do you sell {query}",
        "look for {query} in the shop",
        "i am looking for {query}",
        "search for {query} under {max_price} euros",
        "show me {query} below {max_price} euros",
        "i am looking for {query} for at most {max_price} euros",
        "do you sell {query} under {max_price} euros",
        "search the shop for {query} up to {max_price} euros",
    ),
    held_out=(
        "look for {query}",
        "show me {query} in the shop",
        "i am looking for {query} under {max_price} euros",
        "show me {query} up to {max_price} euros",
        "search for {query} below {max_price} euros",
    ),
)

SET_DELIVERY = Tool(
    name="set_delivery",
    description="Choose where and when the order arrives.",
    slots={
        "city": Slot(make=words.city, description="Where to"),
        "day": Slot(make=day, description="Day of the week", enum=DAYS, open=False),
    },
    required=("city", "day"),
    train=(
        "deliver my order to {city} on {day}",
        "deliver it to {city} on {day}",
        "send my order to {city} on {day}",
        "ship it to {city} on {day}",
        "delivery to {city} on {day}",
        "i want the delivery in {city} on {day}",
        "on {day} deliver my order to {city}",
        "bring the order to {city} on {day}",
        "have it delivered to {city} on {day}",
    ),
    held_out=(
        "ship my order to {city} on {day}",
        "deliver the order to {city} on {day}",
        "on {day} ship it to {city}",
        "have my order delivered to {city} on {day}",
    ),
)

SET_BUDGET = Tool(
    name="set_budget",
    description="Set the most to spend.",
    slots={"amount": Slot(make=price, description="Euros", type="integer")},
    required=("amount",),
    train=(
        "set my budget to {amount} euros",
        "my budget is {amount} euros",
        "i can spend {amount} euros",
        "do not let me spend more than {amount} euros",
        "limit my spending to {amount} euros",
        "budget of {amount} euros",
        "keep the total under {amount} euros",
    ),
    held_out=(
        "set the budget to {amount} euros",
        "i can spend at most {amount} euros",
        "limit my budget to {amount} euros",
        "keep my spending under {amount} euros",
    ),
)

SHOW_CART = Tool(
    name="show_cart",
    description="List what is in the cart.",
    slots={},
    required=(),
    train=(
        "show my cart",
        "show me my cart",
        "what is in my cart",
        "what is in the basket",
        "list my cart",
        "open the cart",
        "what did i put in my cart",
    ),
    held_out=(
        "show the cart",
        "what is in my basket",
        "open my cart",
    ),
)

TOOLS = (ADD_TO_CART, REMOVE_FROM_CART, SEARCH_SHOP, SET_DELIVERY, SET_BUDGET, SHOW_CART)
