"""The smart home tools: unknown to the base model, taught by the `home` adapter."""

import random
from dataclasses import replace

import words
from grammar import Slot, Tool

ROOMS = words.listed("""
kitchen bedroom bathroom hallway garage office attic basement cellar studio nursery
pantry library workshop playroom balcony terrace porch lounge corridor veranda sauna gym laundry
foyer loft den conservatory greenhouse shed
""")
ROOM_KINDS = words.listed("""
living dining guest kids music game laundry waiting meeting reading sewing tea
storage family server drawing
""")
DOORS = words.listed("""
front back side garage cellar garden balcony patio kitchen main porch basement office
shed attic studio terrace
""")


def room(rng: random.Random, split: str) -> str:
    """A room: one word, `reading room`, or `Mia's room`-like made-up ones so that it is copied."""
    roll = rng.random()
    if roll < 0.5:
        return words.pick(rng, ROOMS, split)
    if roll < 0.75:
        return words.pick(rng, ROOM_KINDS, split) + " room"
    return words.word(rng, split) + " room"


def door(rng: random.Random, split: str) -> str:
    return words.pick(rng, DOORS, split) if rng.random() < 0.7 else words.word(rng, split)


def level(rng: random.Random, split: str) -> str:
    return words.number(rng, 1, 100, split)


def degrees(rng: random.Random, split: str) -> str:
    return words.number(rng, 5, 35, split)


def on_off(rng: random.Random, split: str) -> str:
    return rng.choice(("on", "off"))


def up_down(rng: random.Random, split: str) -> str:
    return rng.choice(("up", "down"))


ROOM = Slot(make=room, description="Which room")

SET_LIGHTS = Tool(
    name="set_lights",
    description="Switch lights on or off.",
    slots={
        "room": ROOM,
        "state": Slot(make=on_off, description="On or off", enum=("on", "off"), open=False),
    },
    required=("state",),
    train=(
        "turn the lights {state}",
        "turn {state} the lights",
        "switch {state} the lights",
        "lights {state}",
        "all lights {state}",
        "turn {state} all the lights",
        ("make it dark", {"state": "off"}),
        ("kill the lights", {"state": "off"}),
        ("it is too dark in here", {"state": "on"}),
        ("give me some light", {"state": "on"}),
        "turn the lights {state} in the {room}",
        "turn {state} the lights in the {room}",
        "turn {state} the {room} lights",
        "turn the {room} lights {state}",
        "switch {state} the {room} light",
        "switch the {room} lights {state}",
        "{room} lights {state}",
        "lights {state} in the {room}",
        ("kill the lights in the {room}", {"state": "off"}),
        ("i need light in the {room}", {"state": "on"}),
        ("it is too dark in the {room}", {"state": "on"}),
        ("light up the {room}", {"state": "on"}),
    ),
    held_out=(
        "switch the lights {state}",
        "turn {state} the light",
        "switch all the lights {state}",
        "turn the light {state} in the {room}",
        "switch {state} the lights in the {room}",
        "switch {state} the {room} lights",
        "turn {state} the light in the {room}",
        ("give me some light in the {room}", {"state": "on"}),
    ),
)

DIM_LIGHTS = Tool(
    name="dim_lights",
    description="Set the brightness of lights.",
    slots={
        "level": Slot(make=level, description="Brightness in percent", type="integer"),
        "room": ROOM,
    },
    required=("level",),
    train=(
        "dim the lights to {level} percent",
        "set the brightness to {level} percent",
        "brightness {level}",
        "lights at {level} percent",
        "dim the {room} lights to {level} percent",
        "dim the lights in the {room} to {level} percent",
        "set the {room} lights to {level} percent",
        "set the brightness in the {room} to {level}",
        "put the {room} lights at {level} percent",
        "{room} lights at {level} percent",
        "bring the {room} lights to {level} percent",
    ),
    held_out=(
        "set the lights to {level} percent",
        "dim the lights in the {room} to {level}",
        "set the lights in the {room} to {level} percent",
        "bring the lights in the {room} to {level} percent",
        "brightness in the {room} to {level} percent",
    ),
)

SET_THERMOSTAT = Tool(
    name="set_thermostat",
    description="Set the target temperature.",
    slots={"degrees": Slot(make=degrees, description="Degrees Celsius", type="integer")},
    required=("degrees",),
    train=(
        "set the thermostat to {degrees}",
        "set the temperature to {degrees} degrees",
        "make it {degrees} degrees",
        "heat the house to {degrees} degrees",
        "thermostat at {degrees}",
        "heating to {degrees} degrees",
        "i want it {degrees} degrees in here",
        "warm the place up to {degrees} degrees",
        "cool the house to {degrees}",
        "change the thermostat to {degrees} degrees",
        "turn the heating to {degrees}",
    ),
    held_out=(
        "set the thermostat to {degrees} degrees",
        "set the heating to {degrees} degrees",
        "change the temperature to {degrees}",
        "put the thermostat at {degrees} degrees",
        "warm the house to {degrees} degrees",
    ),
)

SET_LOCK = Tool(
    name="set_lock",
    description="Lock or unlock a door.",
    slots={
        "door": Slot(make=door, description="Which door"),
        "state": Slot(
            make=on_off, description="Wanted state", enum=("locked", "unlocked"), open=False
        ),
    },
    required=("door", "state"),
    train=(
        ("lock the {door} door", {"state": "locked"}),
        ("make sure the {door} door is locked", {"state": "locked"}),
        ("close the lock of the {door} door", {"state": "locked"}),
        ("secure the {door} door", {"state": "locked"}),
        ("{door} door locked", {"state": "locked"}),
        ("unlock the {door} door", {"state": "unlocked"}),
        ("open the lock of the {door} door", {"state": "unlocked"}),
        ("make sure the {door} door is unlocked", {"state": "unlocked"}),
        ("let them in at the {door} door", {"state": "unlocked"}),
        ("{door} door unlocked", {"state": "unlocked"}),
    ),
    held_out=(
        ("lock the door at the {door}", {"state": "locked"}),
        ("i want the {door} door locked", {"state": "locked"}),
        ("i want the {door} door unlocked", {"state": "unlocked"}),
        ("unlock the {door} door and let them in", {"state": "unlocked"}),
        ("secure the lock of the {door} door", {"state": "locked"}),
    ),
)

SET_BLINDS = Tool(
    name="set_blinds",
    description="Move the blinds of a room.",
    slots={
        "position": Slot(make=up_down, description="Up or down", enum=("up", "down"), open=False),
        "room": ROOM,
    },
    required=("position", "room"),
    train=(
        "move the blinds {position} in the {room}",
        "blinds {position} in the {room}",
        "{room} blinds {position}",
        "roll the {room} blinds {position}",
        "move the {room} blinds {position}",
        ("open the blinds in the {room}", {"position": "up"}),
        ("close the blinds in the {room}", {"position": "down"}),
        ("open the {room} blinds", {"position": "up"}),
        ("close the {room} blinds", {"position": "down"}),
        ("raise the blinds in the {room}", {"position": "up"}),
        ("lower the blinds in the {room}", {"position": "down"}),
    ),
    held_out=(
        "roll the blinds {position} in the {room}",
        "put the {room} blinds {position}",
        ("raise the {room} blinds", {"position": "up"}),
        ("lower the {room} blinds", {"position": "down"}),
        "i want the {room} blinds {position}",
    ),
)

START_VACUUM = Tool(
    name="start_vacuum",
    description="Send the robot vacuum to a room.",
    slots={"room": ROOM},
    required=("room",),
    train=(
        "vacuum the {room}",
        "start the vacuum in the {room}",
        "send the vacuum to the {room}",
        "run the robot in the {room}",
        "the {room} is dirty, send the robot",
        "let the robot clean the {room}",
        "start cleaning the {room}",
        "hoover the {room}",
    ),
    held_out=(
        "run the vacuum in the {room}",
        "send the robot to the {room}",
        "start vacuuming the {room}",
        "let the vacuum clean the {room}",
    ),
)

TOOLS = (SET_LIGHTS, DIM_LIGHTS, SET_THERMOSTAT, SET_LOCK, SET_BLINDS, START_VACUUM)


def widened(tool: Tool) -> Tool:
    """The tool with any word as room or door: so few are listed that they would be memorised."""
    slots = {
        name: replace(slot, make=words.word) if name in ("room", "door") else slot
        for name, slot in tool.slots.items()
    }
    return replace(tool, slots=slots)
