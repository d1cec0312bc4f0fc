"""The words of the synthetic stories: names, and nouns, verbs and adjectives by what they mean,
with their inflections, and the way back from any written form to its class and lemma.

A form that several classes share is decided by the word alone, never by its neighbours: numbers
come before adjectives, adjectives before nouns, nouns before verbs, except that the lemmas in
`VERB_FIRST` are verbs ("play", "smile"). The stories mark the few uses that differ.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache, lru_cache

WORD_CLASSES = ("noun", "verb", "adjective", "number", "other")

# Who: first names by gender, names of storybook animals, and the animals that carry them.
GIRLS = """Amy Anna Bella Beth Cara Clara Dora Ella Emma Eva Fay Fiona Gina Hanna Ida Ivy Jane Jenny
    Jill Julia Kate Kim Lara Lena Lila Lily Lisa Lola Lucy Luna Mary Maya Mia Molly Nina Nora Olga
    Polly Rita Rosa Sally Sara Sofia Sue Tara Tina Una Vera Wendy Zoe""".split()
BOYS = """Adam Alex Ben Billy Bob Carl Dan David Eric Felix Finn Fred George Hank Henry Hugo Ian
    Jack Jake Jim Joe John Karl Kevin Leo Liam Luis Luke Max Mike Nick Noah Oscar Owen Paul Pete
    Peter Ralph Ron Sam Simon Ted Theo Tim Toby Tom Victor Walter Zack""".split()
SHE_ANIMALS = "Bibi Coco Dotty Fifi Gigi Hoppy Kiki Lulu Mimi Nibby Pippa Suki Tilly Zuzu".split()
HE_ANIMALS = "Bobo Benny Dodo Fuzzy Gus Jojo Koko Momo Ollie Pip Remy Rolo Tico Ziggy".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
SURNAMES = "Bell Brown Green Hill Lane Reed Stone West White Wood Young".split()
FOREST_ANIMALS = """badger bear beaver deer fox hedgehog mouse otter rabbit raccoon skunk
    squirrel""".split()
ELDERS = {"mom": True, "dad": False, "grandma": True, "grandpa": False}  # True: a woman
TRAITS = """bright calm cheerful clever curious funny friendly gentle happy jolly kind lively nice
    playful polite quiet shy silly smart sweet thoughtful young""".split()
WILD_TRAITS = "busy curious funny lively loud merry playful quick restless silly young".split()

# Animals, by where they are seen and what they do.
PETS = "cat dog kitten puppy hamster parrot pony rabbit turtle".split()
FURRY_PETS = "cat dog kitten puppy".split()
BIRDS = "bird crow duck goose owl pigeon robin sparrow swan seagull".split()
POND_ANIMALS = "duck fish frog swan turtle goose tadpole".split()
FARM_ANIMALS = "cow donkey goat hen horse pig sheep lamb".split()
ZOO_ANIMALS = "camel elephant giraffe lion monkey panda penguin tiger zebra".split()
BUGS = "ant bee beetle butterfly caterpillar ladybug snail spider worm dragonfly".split()

# Food: sweet things a child shares, things that grow, and what animals live on.
TREATS = """biscuit bun candy cookie cracker cupcake donut lollipop muffin pancake pretzel
    waffle""".split()
FRUIT = "apple banana cherry grape mango peach pear plum strawberry".split()
WILD_FOOD = "acorn apple berry carrot cherry mushroom nut pear plum turnip".split()
VEGETABLES = "bean carrot onion pea potato pumpkin radish tomato".split()
BAKED = "biscuit bun cookie cupcake muffin roll pie".split()

# Things. A toy comes with what a child does with it.
TOYS = {
    "ball": "bounce", "boat": "sail", "car": "push", "doll": "hug", "drum": "play", "kite": "fly",
    "plane": "fly", "puppet": "move", "robot": "wind", "teddy": "hug", "train": "pull",
    "truck": "push", "wagon": "pull", "whistle": "blow", "scooter": "ride", "bike": "ride",
}
SMALL_TOYS = "ball boat car doll drum plane puppet robot teddy train truck whistle".split()
FINDS = "acorn bead button feather flower leaf marble pebble pinecone shell stick stone".split()
SWAPS = "bead button card coin marble ribbon shell sticker stone".split()
CLOTHES = "cap coat glove hat jacket mitten raincoat ring sandal scarf shoe sock sweater".split()
BREAKABLE = "bowl cup jar lamp mug plate teapot vase clock".split()
HOLDERS = "bag basket box bucket bowl".split()
GIFTS = "book card doll drum kite necklace pencil puzzle scarf".split()
FLOWERS = "daisy daffodil lily poppy rose sunflower tulip violet".split()

# Animals seen in the open: what they are doing there and how they leave.
SIGHTS = {
    "bee": ("flying over the flowers", "flew away"),
    "butterfly": ("dancing over the flowers", "flew away"),
    "crow": ("sitting on the fence", "flew away"),
    "deer": ("standing under the trees", "ran away"),
    "duck": ("swimming in the water", "swam away"),
    "fish": ("swimming in the water", "swam away"),
    "frog": ("sitting in the wet grass", "hopped away"),
    "goose": ("walking on the grass", "flew away"),
    "ladybug": ("sitting on the leaves", "flew away"),
    "pigeon": ("looking for seeds on the path", "flew away"),
    "rabbit": ("eating the green grass", "hopped away"),
    "robin": ("singing in the trees", "flew away"),
    "snail": ("crawling on a wall", "crawled away"),
    "sparrow": ("hopping on the ground", "flew away"),
    "squirrel": ("looking for nuts", "ran away"),
    "swan": ("swimming in the water", "swam away"),
    "turtle": ("lying in the sun", "crawled away"),
}
# Weather: what one sees, what to wear, what happens without it.
WEATHER = {
    "cold": ("the wind was icy", ["coat", "scarf", "hat", "sweater", "jacket"],
             "began to shiver", "was cold", "was warm"),
    "snowy": ("white snow lay on the ground", ["coat", "scarf", "hat", "jacket"],
              "began to shiver", "was cold", "was warm"),
    "rainy": ("big gray clouds hung in the sky", ["raincoat", "umbrella"],
              "got wet from head to toe", "was wet", "stayed dry"),
    "hot": ("there was no cloud in the sky", ["cap", "hat"],
            "got a hot red face", "was hot and dizzy", "stayed cool"),
}

# Places, with the word that puts someone there.
PLACES = {
    "beach": "on", "park": "in", "garden": "in", "playground": "on", "meadow": "in", "field": "in",
    "forest": "in", "yard": "in", "farm": "on", "zoo": "at", "market": "at", "school": "at",
    "lake": "by", "pond": "by", "river": "by", "library": "in", "hill": "on", "store": "in",
    "kitchen": "in", "street": "on", "barn": "in", "cave": "in",
}
OUTDOORS = "beach park garden playground meadow field forest lake river hill".split()
FOREST_PLACES = "meadow field forest lake pond river hill".split()
HOMES = "cabin castle cottage house hut town tower village".split()
INDOOR_SPOTS = (
    "under the bed", "behind the door", "in the closet", "under the table", "behind the sofa",
    "on the shelf", "in the drawer", "behind the curtain", "in the big basket", "under the rug",
)
OUTDOOR_SPOTS = (
    "under the bench", "behind the big tree", "in the tall grass", "near the gate",
    "behind the wall", "in the bushes", "next to the fence", "behind the rock", "under the leaves",
)

# Adjectives by what they are said of.
FUR_COLORS = "black brown gray golden white".split()
FLOWER_COLORS = "blue orange pink purple red white yellow".split()
COLORS = "black blue brown gold gray green orange pink purple red silver white yellow".split()
SIZES = "big huge large little small tiny".split()
NICE_WEATHER = "bright fine lovely mild pleasant quiet sunny warm".split()
LOOKS = "beautiful fancy lovely nice pretty shiny soft special new".split()
HAPPY = "happy happy glad pleased excited".split()
SAD = "sad unhappy upset".split()
TASTY = "delicious sweet tasty yummy fresh".split()
PLACE_LOOKS = "big beautiful cozy green little lovely old pretty quiet small sunny".split()

# Nouns that the plots name themselves.
OTHER_NOUNS = """afternoon age animal food air arm attic baby bag baker bakery balloon basket
    bed bedroom bell bench block boot bottle bottom boy branch bread breakfast breath brick
    bridge broom brother brush bucket bus bush cage cake candle cart chair change chest child
    class classroom closet cloud coin cow crown crumb curtain dark day dime dinner dirt doctor
    door dough drawer ear dream driver egg end evening eye face family farmer feast fence fever
    finger fire fireman fisherman floor flour foot friend front fun fur gardener gate gift girl
    glass glue ground grass group guest hair hammer hand head heart hide-and-seek hole home
    honey hook hour house hug ice idea juice jug key king kiss knee knock ladder lady leaf leg
    lemonade lesson letter lid life light line loaf lunch man map mat meal medicine midnight
    milk minute mirror moon morning mother mouth mud museum music nail name nap neck neighbor
    nest net night noise nose number nurse page pair paint pan parent party patch path paw penny
    person pet picnic piece pillow plant plate pocket pot present princess prize promise puddle
    queen race rain rainbow rest road rock roof room root rope rug rule sail salad sand sandwich
    sea seat secret seed shadow shelf shovel shop shopkeeper side sign sister sky slide smile
    smoke snack snow sofa song soil sound soup spade spoon spot sprout squeak stage stair star
    station step stove store storm story string sugar summer sun sunshine surprise swing table
    tail tape teacher tear test thing thorn thunder ticket time toe tooth top towel toy treasure
    treat tree trick trip trouble truth tub tummy tunnel turn twin umbrella voice wall water way
    web week wheel wife wind window wing winner winter wish woman wood woods word work world
    worker year yard zookeeper cup prince mailman painter pilot sailor dentist tailor grocer
    bulb fruit vegetable color shape bead blanket flashlight lantern ghost monster bump scratch
    bandage cold stream mailbox corner pond bone coffee cream hallway knife lap moment oven
    paper part row scissors shed sting tea thumb tool try valley birthday catch cry help walk
    mark care love lie trade hurry use well flower picture maker tag game kid bug mommy daddy
    mum mummy bunny job lot clothes kitty owner wolf dress rocket bow lemon joy adventure fairy
    pool bath lawn pizza""".split()
OTHER_ADJECTIVES = """afraid alone angry asleep awake bad bare blank bored brave broken careful
    careless cheap clean clear close cold comfortable cool cross crunchy cute dangerous dark
    dear deep different dirty dizzy dry dull dusty early easy empty equal fair famous fast fat
    favorite fine first fluffy frightened full furry generous golden good grateful great greedy
    grumpy hard heavy helpful high honest hot hungry hurt icy important jealous last late lazy
    light lonely long lost loud lucky magic mean messy muddy narrow naughty neat nervous next
    noisy old open patient perfect pleasant poor quick ready rich right rotten rough round rude
    safe same scared scary selfish sharp short sick sleepy slippery slow smooth snowy sorry sour
    spotted steep sticky stormy strange striped strong stuck sure surprised tall thankful thick
    thin thirsty tired true ugly warm weak wet whole wide wild windy wise wonderful worried
    wrong young rainy third second cozy proud delighted calm tidy free wooden steady tight
    bitter well colorful unexpected amazing amazed confused elderly mad interesting
    attractive""".split()

VERBS = """add agree answer ask be bake bark beat become begin believe bend bite blow bounce
    break bring brush build bump burn buy call can care carry catch chase check cheer choose
    chirp clap clean climb close collect come cook cost could count cover crack crawl cross cry
    cut dance dig disappear do drag draw dream drink drip drive drop dry eat empty end enjoy
    explore fall feed feel fight fill find finish fix float fly fold follow forget forgive
    gather get giggle give glow go grab grow growl guess hang happen have hear help hide hit
    hold hop hope hug hum hurry hurt invite jump keep kick kiss knock know land laugh lead lean
    learn leave let lick lie lift light like listen live look lose love make march meet melt
    mind miss mix move must need nod notice offer open paint pass pat pay pedal peek peel pet
    pick place plan plant play point pop pour practice pretend promise puff pull push put race
    rain reach read remember repair reply rest ride ring roar roll rub run rush sail save say
    scratch scream search see sell send shake share shine should shout show shiver sigh sing sit
    skip sleep slide slip smell smile snap sneeze sniff snore snow solve sound spend spill
    splash spot spread squeak squeeze stack stand start stay steal step stick stop store stretch
    surprise sweep swim swing take talk taste teach tear tell thank think throw tickle tidy tie
    tiptoe touch trade try tuck tumble turn use visit wag wait wake walk want warm wash watch
    water wave wear whisper will win wind wipe wish wonder work worry would wrap write yawn yell
    hatch whistle squawk moo quack welcome belong tip trip lock unlock may boast poke glue swap
    trust wobble decide understand realize continue celebrate wiggle""".split()
VERB_FIRST = """bark bite call care carry climb cook cry cut dance drink drop fall fly guess
    help hop hug hurt kiss laugh look move play ride shake show sleep smell smile splash start
    stop talk try use visit wait walk wash watch wave wear wish work hide knock close run jump
    read pat cheer tie love live paint lose""".split()
# lemma: past, participle where it differs
IRREGULAR_VERBS = """may may|beat beat beaten|become became become|begin began begun|bend
    bent|bite bit bitten|blow blew blown|break broke broken|bring brought|build built|buy
    bought|can could|catch caught|choose chose chosen|come came come|cost cost|could could|cut
    cut|dig dug|do did done|draw drew drawn|drink drank drunk|drive drove driven|eat ate
    eaten|fall fell fallen|feed fed|feel felt|fight fought|find found|fly flew flown|forget
    forgot forgotten|forgive forgave forgiven|get got|give gave given|go went gone|grow grew
    grown|hang hung|have had|hear heard|hide hid hidden|hit hit|hold held|hurt hurt|keep
    kept|know knew known|lead led|leave left|let let|lie lay lain|light lit|lose
    lost|make made|meet met|must must|pay paid|put put|read read|ride rode ridden|ring rang
    rung|run ran run|say said|see saw seen|sell sold|send sent|shake shook shaken|shine
    shone|should should|show showed shown|sing sang sung|sit sat|sleep slept|slide slid|spend
    spent|spread spread|stand stood|steal stole stolen|stick stuck|sweep swept|swim swam
    swum|swing swung|take took taken|teach taught|tear tore torn|tell told|think thought|throw
    threw thrown|wake woke woken|wear wore worn|will would|win won|wind wound|would would|write
    wrote written"""
IRREGULAR_PLURALS = {
    "child": "children", "deer": "deer", "fireman": "firemen", "fish": "fish",
    "fisherman": "fishermen", "foot": "feet", "goose": "geese",
    "leaf": "leaves", "life": "lives", "loaf": "loaves", "mailman": "mailmen", "man": "men",
    "mouse": "mice", "person": "people", "potato": "potatoes", "sheep": "sheep",
    "shelf": "shelves", "tomato": "tomatoes", "tooth": "teeth", "wife": "wives", "wolf": "wolves",
    "woman": "women",
}
BE_FORMS = {
    "am": "s", "is": "s", "are": "base", "was": "past-s", "were": "past", "been": "past",
    "being": "ing", "isn't": "s", "aren't": "base", "wasn't": "past-s", "weren't": "past",
}
CONTRACTIONS = {
    "don't": ("do", "base"), "doesn't": ("do", "s"), "didn't": ("do", "past"),
    "can't": ("can", "base"), "couldn't": ("could", "base"), "won't": ("will", "base"),
    "cannot": ("can", "base"), "lied": ("lie", "past"), "let's": ("let", "base"),
    "hasn't": ("have", "s"), "haven't": ("have", "base"), "hadn't": ("have", "past"),
}
COMPARATIVES = {
    "better": "good", "best": "good", "worse": "bad", "worst": "bad", "prettiest": "pretty",
    "loudest": "loud", "easier": "easy",
}
COMPARED = """big brave bright clean cold dark deep fast great happy hard heavy high hot kind large
    light long loud old quick quiet short slow small smart soft strong sweet tall warm wet wide
    young early late funny easy""".split()
_ONES = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen
    fifteen sixteen seventeen eighteen nineteen""".split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
# A word, a run of digits or one punctuation mark, the white space in front, a class mark behind.
_TOKEN = re.compile(r"(\s*)([^\W\d_]+(?:['\u2019-][^\W\d_]+)*|\d+|\S)")


def number_word(n: int) -> str:
    """The number 0..100 in words: 41 -> "forty-one"."""
    if n == 100:
        return "one hundred"
    if n < 20:
        return _ONES[n]
    return _TENS[n // 10 - 2] + (f"-{_ONES[n % 10]}" if n % 10 else "")


@cache
def plural(noun: str) -> str:
    """The plural of a noun or noun phrase; the last word takes the ending."""
    head, _, last = noun.rpartition(" ")
    if last in IRREGULAR_PLURALS:
        last = IRREGULAR_PLURALS[last]
    elif last[-1] == "y" and last[-2] not in "aeiou":
        last = last[:-1] + "ies"
    else:
        last += "es" if last.endswith(("s", "x", "z", "ch", "sh")) else "s"
    return f"{head} {last}" if head else last


def a(phrase: str) -> str:
    """The phrase with its indefinite article: "an old apple", "a pear"."""
    vowel = re.match(r"[aeiou]|hour|honest|8|11\b|18\b", phrase, re.IGNORECASE)
    return f"{'an' if vowel and not re.match('uni|use|one', phrase) else 'a'} {phrase}"


@cache
def verb_form(verb: str, form: str) -> str:
    """The form "s" (plays), "past" (played), "participle" or "ing" (playing) of a verb."""
    if form in ("past", "participle") and verb in _irregular():
        forms = _irregular()[verb]
        return forms[0] if form == "past" else forms[-1]
    stem = verb
    if form == "s":
        if verb in ("can", "could", "may", "must", "should", "will", "would"):
            return verb
        if verb in ("do", "go", "have"):
            return {"do": "does", "go": "goes", "have": "has"}[verb]
        return plural(verb) if verb not in IRREGULAR_PLURALS else verb + "s"
    if re.fullmatch(r"[^aeiou]*(?:qu)?[aeiou][^aeiouwxy]", verb) or verb in ("forget", "begin"):
        stem += verb[-1]
    if form == "ing":
        if verb in ("lie", "tie"):
            return verb[:-2] + "ying"
        return (verb[:-1] if re.search("[^e]e$", verb) and len(verb) > 2 else stem) + "ing"
    if verb[-1] == "y" and verb[-2] not in "aeiou":
        return verb[:-1] + "ied"
    return verb + "d" if verb[-1] == "e" else stem + "ed"


@cache
def _irregular() -> dict[str, list[str]]:
    entries = (entry.split() for entry in IRREGULAR_VERBS.split("|"))
    return {lemma: forms for lemma, *forms in entries}


@cache
def lexicon() -> dict[str, dict[str, tuple[str, str]]]:
    """Every known form in lower case (names as written): its classes, the default one first.

    Each class maps to (lemma, form): form is "one" or "many" for nouns, "base", "s", "past",
    "past-s" (was), "participle" or "ing" for verbs, "" for the rest.
    """
    table: dict[str, dict[str, tuple[str, str]]] = {}
    for word_class, surface, lemma, form in _entries():
        table.setdefault(surface, {}).setdefault(word_class, (lemma, form))
    return table


def _entries() -> Iterator[tuple[str, str, str, str]]:
    """All (class, surface, lemma, form), those that win an ambiguity first."""
    for name in (*GIRLS, *BOYS, *SHE_ANIMALS, *HE_ANIMALS, *SURNAMES, *DAYS, "Mr", "Mrs"):
        yield "noun", name, name, "one"
    for n in range(100):
        yield "number", number_word(n), number_word(n), ""
    yield "number", "hundred", "hundred", ""
    yield from _verb_entries(VERB_FIRST)
    for lists in (TRAITS, WILD_TRAITS, COLORS, SIZES, NICE_WEATHER, LOOKS, HAPPY, SAD, TASTY,
                  PLACE_LOOKS, OTHER_ADJECTIVES):
        for adjective in lists:
            yield "adjective", adjective, adjective, ""
    for adjective in COMPARED:
        past = verb_form(adjective, "past")  # big -> bigged -> bigger: the same spelling rules
        yield "adjective", past[:-1] + "r", adjective, ""
        yield "adjective", past[:-1] + "st", adjective, ""
    for surface, lemma in COMPARATIVES.items():
        yield "adjective", surface, lemma, ""
    for lists in (FOREST_ANIMALS, ELDERS, PETS, BIRDS, POND_ANIMALS, FARM_ANIMALS, ZOO_ANIMALS,
                  BUGS, TREATS, FRUIT, WILD_FOOD, VEGETABLES, BAKED, TOYS, FINDS, SWAPS, CLOTHES,
                  BREAKABLE, HOLDERS, GIFTS, FLOWERS, PLACES, HOMES, OTHER_NOUNS):
        for noun in lists:
            yield "noun", noun, noun, "one"
            yield "noun", plural(noun), noun, "many"
    yield from _verb_entries(VERBS)


def _verb_entries(verbs: list[str]) -> Iterator[tuple[str, str, str, str]]:
    for verb in verbs:
        if verb == "be":
            yield "verb", "be", "be", "base"
            for surface, form in BE_FORMS.items():
                yield "verb", surface, "be", form
            for surface, (lemma, form) in CONTRACTIONS.items():
                yield "verb", surface, lemma, form
            continue
        yield "verb", verb, verb, "base"
        for form in ("past", "participle", "s", "ing"):
            yield "verb", verb_form(verb, form), verb, form


@lru_cache(maxsize=1 << 16)
def look_up(surface: str, word_class: str = "") -> tuple[str, str, str]:
    """(class, lemma, form) of one word as written; `word_class` settles an ambiguous one."""
    if surface.isdigit():
        return "number", surface, ""
    bare = surface[:-2] if surface.endswith("'s") and surface.lower() not in CLITICS else surface
    bare = bare[:-1] if bare.endswith("s'") else bare
    entry = lexicon().get(bare) or lexicon().get(bare.lower())
    if word_class == "other" or not entry:
        return "other", surface.lower(), ""
    word_class = word_class or next(iter(entry))
    return (word_class, *entry[word_class])


CLITICS = frozenset("it's that's let's what's here's there's he's she's where's who's".split())


def tokens(text: str) -> Iterator[tuple[str, str]]:
    """(white space in front, word or punctuation mark) for the whole of any text, in order."""
    return ((match[1], match[2]) for match in _TOKEN.finditer(text))


def classify(text: str) -> list[tuple[str, str]]:
    """Split any text into words and punctuation marks and give each its class by the lexicon.

    A piece keeps the white space in front of it, so the pieces joined are the text itself.
    Words that the lexicon does not know are "other"; an ambiguous word takes the class that the
    module's docstring says, whatever stands beside it.
    """
    pieces = [(space + word, look_up(word)[0]) for space, word in tokens(text)]
    rest = text[sum(len(piece) for piece, _ in pieces):]
    return [*pieces, (rest, "other")] if rest else pieces
