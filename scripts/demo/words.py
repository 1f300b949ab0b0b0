"""Words, numbers and made-up names, split into train and held-out by a checksum of the value.

A value belongs to the held-out split when its CRC-32 is divisible by HELD_OUT_MODULUS, so no
list has to be kept and the two splits cannot overlap. Function words are not values.
"""

import random
import zlib
from collections.abc import Callable, Sequence

TRAIN, HELD_OUT = "train", "held-out"
HELD_OUT_MODULUS = 5


def listed(text: str) -> tuple[str, ...]:
    """The words of a text."""
    return tuple(text.split())


CITIES = listed("""
Tokyo Paris Berlin Madrid Rome Vienna Oslo Dublin Lisbon Prague Athens Warsaw Zurich
Geneva Munich Hamburg Cologne Bremen Leipzig Dresden Lyon Nice Lille Nantes Bordeaux Toulouse
Milan Turin Naples Venice Florence Bologna Genoa Seville Valencia Malaga Bilbao Porto Braga
London Leeds York Bristol Glasgow Cardiff Belfast Cork Galway Bergen Stockholm Malmo Uppsala
Helsinki Turku Tampere Riga Tallinn Vilnius Minsk Kyiv Lviv Odesa Krakow Gdansk Poznan Brno
Budapest Bucharest Sofia Varna Split Zagreb Belgrade Skopje Ankara Izmir Cairo Tunis Rabat Lagos
Accra Dakar Nairobi Lusaka Durban Delhi Mumbai Pune Chennai Kolkata Dhaka Lahore Kabul Tehran
Beirut Amman Doha Dubai Muscat Osaka Kyoto Nagoya Kobe Sapporo Seoul Busan Beijing Shanghai Hanoi
Manila Jakarta Bangkok Sydney Perth Brisbane Boston Chicago Denver Dallas Houston Austin Seattle
Portland Phoenix Atlanta Miami Orlando Toronto Montreal Ottawa Calgary Lima Quito Bogota Santiago
Havana Panama Caracas
""")

NAMES = listed("""
Anna Ben Clara David Emma Felix Greta Hugo Iris Jonas Karin Leo Mia Noah Olga Paul
Quinn Rosa Simon Tina Ulla Victor Wendy Xenia Yann Zoe Alice Bruno Carla Diego Elena Frank Gina
Hanna Ivan Julia Kevin Laura Martin Nina Oscar Petra Ralf Sara Tom Ursula Vera Walter Amir Bella
Chloe Daniel Esther Finn Grace Henry Ines Jack Kim Lucas Maria Nora Omar Priya Ravi Sofia Theo
Uma Viktor Yusuf Zara Adam Boris Cora Dora Eric Flora Gavin Heidi Igor Jenny Klaus Lena Marco
Nadia Otto Pia Rita Sven Tara Vito Will Yara Mom Dad Grandma Grandpa
""")

ADJECTIVES = listed("""
red blue green black white golden silver dark bright cold warm hot small big long
short old new young quiet loud sweet bitter fresh dry wet soft hard light heavy clean simple lucky
happy sad wild calm slow fast early late round flat sharp pale deep broken empty hidden secret
little ancient modern frozen smooth rough purple orange yellow pink brown grey
""")

NOUNS = listed("""
river mountain forest ocean island garden bridge tower castle window mirror candle
lantern letter paper pencil book story song dance drum guitar piano violin bell clock watch ring
crown shirt jacket coat scarf glove boot shoe sock hat bag box basket bottle cup glass plate bowl
spoon fork knife table chair sofa pillow blanket carpet curtain door key lock wall roof floor
stone sand snow rain storm wind cloud star moon sun fire smoke ash leaf flower rose tulip daisy
tree apple pear plum cherry peach lemon melon grape berry tomato potato carrot onion garlic bean
rice bread butter cheese milk cream honey sugar salt pepper tea coffee juice soup salad cake
cookie pie horse dog cat bird fish rabbit fox wolf bear lion tiger mouse spider turtle train boat
ship plane bicycle car truck wagon wheel engine road street market school station harbour office
camera radio phone laptop tablet cable battery charger printer lamp bulb tent rope ladder hammer
nail screw brush paint soap towel sponge shampoo
""")

ERRAND_VERBS = listed("""
buy bring fetch find clean paint repair check return collect sell wash pack
order water move count print scan borrow
""")

ONSETS = listed("b d f g k l m n p r s t v z br dr gr kr pl st tr")
VOWELS = listed("a e i o u")
CODAS = ("", "", "", "l", "n", "r", "s")


def split_of(value: object) -> str:
    """Which split a value belongs to: fixed by its text alone."""
    held_out = zlib.crc32(str(value).lower().encode()) % HELD_OUT_MODULUS == 0
    return HELD_OUT if held_out else TRAIN


def draw(make: Callable[[], object], split: str) -> str:
    """Draw from `make` until the value belongs to `split`."""
    while True:
        value = str(make())
        if split_of(value) == split:
            return value


def pick(rng: random.Random, values: Sequence[str], split: str) -> str:
    """One of the listed values that belong to `split`."""
    return draw(lambda: rng.choice(values), split)


def made_up(rng: random.Random, split: str) -> str:
    """A made-up word of two syllables (one time in five three): `trevos`, `kamil`."""
    count = 3 if rng.random() < 0.2 else 2

    def spell() -> str:
        return "".join(
            rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS) for _ in range(count)
        )

    return draw(spell, split)


def number(rng: random.Random, low: int, high: int, split: str) -> str:
    """A whole number from low to high, both included."""
    return draw(lambda: rng.randint(low, high), split)


def word(rng: random.Random, split: str) -> str:
    """A noun, or one time in three a made-up word."""
    return made_up(rng, split) if rng.random() < 0.33 else pick(rng, NOUNS, split)


def adjective(rng: random.Random) -> str:
    """Any adjective: modifiers are shared by both splits, the head word is not."""
    return rng.choice(ADJECTIVES)


def city(rng: random.Random, split: str) -> str:
    """A city, listed or made up, now and then of two words."""
    name = made_up(rng, split).title() if rng.random() < 0.4 else pick(rng, CITIES, split)
    return f"{rng.choice(['New', 'Port', 'San', 'Lake'])} {name}" if rng.random() < 0.1 else name


def person(rng: random.Random, split: str) -> str:
    """A first name, listed or made up, now and then in lower case."""
    name = made_up(rng, split).title() if rng.random() < 0.4 else pick(rng, NAMES, split)
    return name.lower() if rng.random() < 0.15 else name
