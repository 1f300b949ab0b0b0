"""The car's tools: unknown to the base and to every adapter that ships; what the user trains."""

import random

import words
from grammar import Slot, Tool
from home_domain import on_off

STREETS = words.listed("street road square lane avenue park")
AVOIDED = ("tolls", "ferries", "tunnels")
SEATS = ("driver", "passenger", "rear")


def place(rng: random.Random, split: str) -> str:
    """Where to go: `Oslo`, `Tulip street`, `Kamil road`."""
    if rng.random() < 0.5:
        return words.city(rng, split)
    return f"{words.word(rng, split).title()} {rng.choice(STREETS)}"


def speed(rng: random.Random, split: str) -> str:
    return words.number(rng, 25, 140, split)


def power(rng: random.Random, split: str) -> str:
    return words.number(rng, 11, 350, split)


def level(rng: random.Random, split: str) -> str:
    return str(rng.randint(1, 5))


def seat(rng: random.Random, split: str) -> str:
    return rng.choice(SEATS)


def avoided(rng: random.Random, split: str) -> str:
    return rng.choice(AVOIDED)


def station(rng: random.Random, split: str) -> str:
    """A radio station: `Radio Kamil`, `Silver Wave`, `Tulip FM`, or its frequency."""
    name = words.word(rng, split).title()
    forms = (
        f"Radio {name}",
        f"{name} FM",
        f"{words.adjective(rng).title()} {name}",
        words.draw(lambda: f"{rng.randint(88, 107)}.{rng.randint(0, 9)}", split),
    )
    return rng.choice(forms)


START_ROUTE = Tool(
    name="start_route",
    description="Show the way to a place.",
    slots={
        "avoid": Slot(make=avoided, description="What to avoid", enum=AVOIDED, open=False),
        "place": Slot(make=place, description="Where to go"),
    },
    required=("place",),
    train=(
        "navigate to {place}",
        "take me to {place}",
        "drive to {place}",
        "show me the way to {place}",
        "how do i get to {place}",
        "start the route to {place}",
        "directions to {place}",
        "i want to go to {place}",
        "find the way to {place}",
        "bring me to {place}",
        "we need to get to {place}",
        "guide me to {place}",
        "set the route to {place}",
        "take me to {place} and avoid {avoid}",
        "drive to {place}, no {avoid}",
        "show me the way to {place} without {avoid}",
        "avoid {avoid} and navigate to {place}",
        "without {avoid} take me to {place}",
        "i want to avoid {avoid} on the way to {place}",
        "find a route without {avoid} to {place}",
    ),
    held_out=(
        "show me the route to {place}",
        "i need directions to {place}",
        "start navigation to {place}",
        "we want to go to {place}",
        "avoid {avoid} and guide me to {place}",
        "set a route without {avoid} to {place}",
        "drive to {place} and avoid {avoid}",
    ),
)

HOLD_SPEED = Tool(
    name="hold_speed",
    description="Hold a speed.",
    slots={"speed": Slot(make=speed, description="Speed in km/h", type="integer")},
    required=("speed",),
    train=(
        "set the cruise control to {speed}",
        "cruise at {speed}",
        "cruise control at {speed}",
        "keep the speed at {speed}",
        "hold {speed} kilometres an hour",
        "stay at {speed}",
        "set the speed to {speed}",
        "go no faster than {speed}",
        "keep it at {speed} kilometres an hour",
        "drive at {speed} from here on",
        "limit the speed to {speed}",
        "hold the car at {speed}",
        "cruise control {speed}",
        "slow down to {speed} and stay there",
        "speed up to {speed} and hold it",
    ),
    held_out=(
        "hold the speed at {speed}",
        "cruise at {speed} kilometres an hour",
        "set the cruise control at {speed} kilometres an hour",
        "limit the cruise control to {speed}",
        "keep the car at {speed}",
        "stay at {speed} kilometres an hour from here on",
    ),
)

FIND_CHARGER = Tool(
    name="find_charger",
    description="Find a charging station.",
    slots={
        "city": Slot(make=words.city, description="Near which town"),
        "power": Slot(make=power, description="Least power in kW", type="integer"),
    },
    required=(),
    train=(
        "find a charger near {city}",
        "find a charging station in {city}",
        "where can i charge near {city}",
        "is there a charger in {city}",
        "show me chargers around {city}",
        "i need to charge in {city}",
        "look for a charging point near {city}",
        "where is the next charger after {city}",
        "charge the car near {city}",
        "find a charger with {power} kw",
        "i need a charger with at least {power} kw",
        "where can i charge with {power} kw",
        "find a {power} kw charger near {city}",
        "show me chargers with {power} kw in {city}",
        "look for a {power} kw charging point in {city}",
        "i need a charging station of {power} kw near {city}",
    ),
    held_out=(
        "show me a charging station near {city}",
        "where is a charger in {city}",
        "look for chargers around {city}",
        "is there a {power} kw charger in {city}",
        "i need a charging point with {power} kw",
        "find a charging station with {power} kw in {city}",
    ),
)

WARM_SEAT = Tool(
    name="warm_seat",
    description="Warm a seat, or stop that.",
    slots={
        "level": Slot(make=level, description="From 1 to 5", type="integer", open=False),
        "seat": Slot(make=seat, description="Which seat", enum=SEATS, open=False),
        "state": Slot(make=on_off, description="On or off", enum=("on", "off"), open=False),
    },
    required=("seat",),
    train=(
        "heat the {seat} seat to level {level}",
        "warm the {seat} seat, level {level}",
        "set the {seat} seat to {level}",
        "{seat} seat heating at level {level}",
        "put the {seat} seat heater on {level}",
        "seat heating {level} for the {seat}",
        "turn the {seat} seat heating to {level}",
        "turn {state} the {seat} seat heating",
        "turn the {seat} seat heater {state}",
        "switch {state} the {seat} seat heater",
        "{seat} seat heating {state}",
        "switch the heating of the {seat} seat {state}",
        ("the {seat} seat is too hot", {"state": "off"}),
        ("stop heating the {seat} seat", {"state": "off"}),
        ("the {seat} is cold, warm the seat", {"state": "on"}),
        ("start warming the {seat} seat", {"state": "on"}),
    ),
    held_out=(
        "warm the {seat} seat to level {level}",
        "set the {seat} seat heating to level {level}",
        "put the {seat} seat heating at {level}",
        "switch {state} the {seat} seat heating",
        "turn {state} the heating of the {seat} seat",
        ("start heating the {seat} seat", {"state": "on"}),
        ("stop warming the {seat} seat", {"state": "off"}),
    ),
)

TUNE_RADIO = Tool(
    name="tune_radio",
    description="Tune the radio to a station.",
    slots={"station": Slot(make=station, description="Name or frequency")},
    required=("station",),
    train=(
        "tune the radio to {station}",
        "tune to {station}",
        "switch the radio to {station}",
        "radio on {station}",
        "find {station} on the radio",
        "change the station to {station}",
        "i want the radio on {station}",
        "set the radio to {station}",
        "turn the radio to {station}",
        "go to the station {station}",
        "get me the station {station}",
        "radio, go to {station}",
        "change to {station}",
    ),
    held_out=(
        "set the station to {station}",
        "change the radio to {station}",
        "tune in to {station}",
        "i want {station} on the radio",
        "get me {station} on the radio",
        "switch to the station {station}",
    ),
)

TOOLS = (START_ROUTE, HOLD_SPEED, FIND_CHARGER, WARM_SEAT, TUNE_RADIO)
