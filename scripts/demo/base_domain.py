"""The six everyday tools that the base model owns: baked into its weights."""

import random

import words
from grammar import Slot, Tool


def minutes(rng: random.Random, split: str) -> str:
    return words.number(rng, 1, 59 if rng.random() < 0.6 else 300, split)


def clock_time(rng: random.Random, split: str) -> str:
    return words.draw(lambda: f"{rng.randint(0, 23)}:{rng.randint(0, 59):02d}", split)


def errand(rng: random.Random, split: str) -> str:
    """A short free text: `buy fresh bread`, `call Anna at noon`, `the trevos needs salt`."""
    thing = words.word(rng, split)
    if rng.random() < 0.4:
        thing = f"{words.adjective(rng)} {thing}"
    verb = rng.choice(words.ERRAND_VERBS)
    forms = (
        f"{verb} {thing}",
        f"{verb} the {thing}",
        f"{verb} {rng.randint(2, 12)} {thing}",
        f"call {words.person(rng, split)} about the {thing}",
        f"the {thing} is ready",
        f"we need more {thing}",
        f"{verb} the {thing} before noon",
        f"meet {words.person(rng, split)} in {words.city(rng, split)}",
    )
    return rng.choice(forms)


def remark(rng: random.Random, split: str) -> str:
    """What people write to each other; the sentences without a value are never held out."""
    thing = words.word(rng, split)
    forms = (
        f"i am in {words.city(rng, split)}",
        f"meet me in {words.city(rng, split)}",
        f"i found the {thing}",
        f"bring the {thing}",
        f"i like the {words.adjective(rng)} {thing}",
        f"where is the {thing}",
        f"the {thing} is {words.adjective(rng)}",
    )
    known = (
        "i am late",
        "i will be late",
        "see you soon",
        f"dinner is at {rng.randint(5, 9)}",
    )
    return rng.choice(forms + known if split == words.TRAIN else forms)


def title(rng: random.Random, split: str) -> str:
    """A song title: one to three words, capitalised."""
    head = words.word(rng, split).title()
    forms = (head, f"{words.adjective(rng).title()} {head}", f"The {head}", f"My {head} And Me")
    return rng.choice(forms)


SET_TIMER = Tool(
    name="set_timer",
    description="Start a countdown.",
    slots={"minutes": Slot(make=minutes, description="Length in minutes", type="integer")},
    required=("minutes",),
    train=(
        "set a timer for {minutes} minutes",
        "set a {minutes} minute timer",
        "start a timer for {minutes} minutes",
        "start a {minutes} minute countdown",
        "timer for {minutes} minutes",
        "timer {minutes} minutes",
        "{minutes} minute timer",
        "count down {minutes} minutes",
        "give me a timer of {minutes} minutes",
        "i need a timer for {minutes} minutes",
        "tell me when {minutes} minutes are over",
        "ring in {minutes} minutes",
        "start counting down {minutes} minutes",
        "put {minutes} minutes on the clock",
        "set a timer for {minutes} min",
        "timer for {minutes} minute",
    ),
    held_out=(
        "set the timer to {minutes} minutes",
        "i need a {minutes} minute timer",
        "start the countdown at {minutes} minutes",
        "make it a timer of {minutes} minutes",
        "tell me when {minutes} minutes have passed",
    ),
)

SET_ALARM = Tool(
    name="set_alarm",
    description="Set an alarm.",
    slots={"time": Slot(make=clock_time, description="Time of day")},
    required=("time",),
    train=(
        "set an alarm for {time}",
        "set the alarm to {time}",
        "wake me at {time}",
        "wake me up at {time}",
        "alarm at {time}",
        "alarm for {time}",
        "i need an alarm at {time}",
        "i have to get up at {time}",
        "make sure i am awake at {time}",
        "put an alarm at {time}",
        "ring the alarm at {time}",
        "get me out of bed at {time}",
    ),
    held_out=(
        "set my alarm for {time}",
        "i want to wake up at {time}",
        "i need to be awake at {time}",
        "give me an alarm at {time}",
        "let the alarm ring at {time}",
    ),
)

GET_WEATHER = Tool(
    name="get_weather",
    description="Get the weather of a city.",
    slots={"city": Slot(make=words.city, description="Name of the city")},
    required=("city",),
    train=(
        "what is the weather in {city}",
        "what's the weather like in {city}",
        "how is the weather in {city}",
        "weather in {city}",
        "weather for {city}",
        "is it raining in {city}",
        "is it cold in {city}",
        "is it sunny in {city} today",
        "is it hot in {city}",
        "is it windy in {city}",
        "will it rain in {city}",
        "tell me the weather in {city}",
        "show me the weather for {city}",
        "do i need an umbrella in {city}",
        "check the weather in {city}",
        "{city} weather",
        "i am going to {city}, how is the weather there",
    ),
    held_out=(
        "how's the weather in {city}",
        "is it warm in {city}",
        "what is the weather like in {city} today",
        "get me the weather for {city}",
        "will i need an umbrella in {city}",
    ),
)

SEND_MESSAGE = Tool(
    name="send_message",
    description="Send a message to a person.",
    slots={
        "recipient": Slot(make=words.person, description="Who gets it"),
        "text": Slot(make=remark, description="What it says", free_text=True),
    },
    required=("recipient", "text"),
    train=(
        "send {recipient} a message saying {text}",
        "send a message to {recipient} saying {text}",
        "tell {recipient} that {text}",
        "text {recipient} {text}",
        "text {recipient}: {text}",
        "message {recipient}: {text}",
        "write to {recipient} that {text}",
        "write {recipient} a message that says {text}",
        "let {recipient} know that {text}",
        "send {recipient} the message {text}",
        "message to {recipient}: {text}",
        "drop {recipient} a line saying {text}",
    ),
    held_out=(
        "send a text to {recipient} saying {text}",
        "write to {recipient}: {text}",
        "message {recipient} that {text}",
        "send {recipient} a message that says {text}",
        "tell {recipient}: {text}",
    ),
)

ADD_NOTE = Tool(
    name="add_note",
    description="Save a note.",
    slots={"text": Slot(make=errand, description="What to remember", free_text=True)},
    required=("text",),
    train=(
        "add a note: {text}",
        "take a note: {text}",
        "add a note saying {text}",
        "make a note to {text}",
        "note: {text}",
        "remember to {text}",
        "remind me to {text}",
        "write down: {text}",
        "note that {text}",
        "save a note that says {text}",
        "don't let me forget: {text}",
        "put this in my notes: {text}",
    ),
    held_out=(
        "make a note: {text}",
        "new note: {text}",
        "save a note saying {text}",
        "write this down: {text}",
        "add this to my notes: {text}",
    ),
)

PLAY_SONG = Tool(
    name="play_song",
    description="Play a song.",
    slots={"title": Slot(make=title, description="Title of the song")},
    required=("title",),
    train=(
        "play {title}",
        "play the song {title}",
        "play the track {title}",
        "put on {title}",
        "put on the song {title}",
        "i want to hear {title}",
        "i would like to hear the song {title}",
        "start playing {title}",
        "let me hear {title}",
        "let's listen to {title}",
        "play {title} on the speaker",
        "start the song {title}",
    ),
    held_out=(
        "play me {title}",
        "i want to listen to {title}",
        "put the song {title} on",
        "start the track {title}",
        "let me listen to the song {title}",
    ),
)

TOOLS = (SET_TIMER, SET_ALARM, GET_WEATHER, SEND_MESSAGE, ADD_NOTE, PLAY_SONG)
