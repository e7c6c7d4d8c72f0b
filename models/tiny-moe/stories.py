"""Plots of the tiny-moe corpus: a small template language and the stories written in it.

Written for this project (Apache-2.0). In a template `{a|b}` picks one branch, `[slot]` inserts a
value of the story's context, `[a:slot]` puts "a" or "an" in front of it. The first letter of each
sentence is capitalised afterwards, so templates may start in lower case.
"""
import random
import re

from facts import BOYS, GIRLS, VILLAGE

LEXICON = {
    "adj": "little small young brave clever kind shy cheerful curious gentle lively quiet friendly lonely".split(),
    "animal": "fox bear rabbit mouse owl cat dog frog squirrel hedgehog duck goat lamb pony kitten puppy otter badger beaver swan crow turtle".split(),
    "place": ["forest", "garden", "park", "meadow", "valley", "village", "old orchard", "green field", "woods", "pine grove", "wide heath", "yard"],
    "home": ["a small cottage", "a little red house", "a wooden hut", "a house at the edge of the forest", "an old mill",
             "a farm house on the hill", "a house near the sea", "a tall stone tower", "a warm cabin", "a white house with a green door"],
    "toy": ["red ball", "blue kite", "wooden train", "teddy bear", "toy boat", "silver whistle", "little drum", "rag doll",
            "paper plane", "spinning top", "golden bell", "picture book", "yellow balloon", "toy car", "wooden horse"],
    "thing": ["red scarf", "golden ring", "silver coin", "small mirror", "wooden flute", "blue button", "brass key", "warm hat",
              "green umbrella", "little lamp", "old map", "round stone", "white feather", "shiny shell", "leather bag"],
    "spot": ["under the bed", "behind the door", "under a big leaf", "in the tall grass", "behind the old well", "under the stairs",
             "beside the pond", "in a hollow tree", "on the kitchen table", "under the bench", "inside an old boot", "behind the barn"],
    "food": ["apple pie", "carrot soup", "honey cake", "fresh bread", "berry jam", "pancakes", "nut cookies", "pumpkin soup",
             "cherry tart", "cheese sandwiches", "plum pudding", "oat porridge"],
    "ingredient": ["flour", "sugar", "milk", "butter", "two eggs", "salt", "honey", "nuts", "berries", "apples", "carrots", "cream"],
    "colour": "red blue green yellow orange purple white black pink brown golden silver".split(),
    "weather": ["The sun was shining", "It was a warm day", "The sky was blue", "It was a cold morning", "A soft wind was blowing",
                "The birds were singing", "It was a quiet day", "The air smelled of flowers"],
    "family": ["mother", "father", "grandmother", "grandfather", "sister", "brother", "aunt", "uncle"],
    "instrument": ["drum", "flute", "violin", "trumpet", "guitar", "piano", "harp"],
    "flower": ["rose", "tulip", "sunflower", "daisy", "lily", "violet"],
    "treasure": ["gold coins", "old letters", "shining stones", "a tiny music box", "a book of stories", "a sleeping butterfly", "a map of the stars"],
    "buy": ["bread", "cheese", "apples", "candles", "a rope", "a blue cup", "a bag of nuts", "honey", "ribbons", "a pot", "fish", "tea", "a lamp", "soap"],
    "skill": ["swim", "ride a bicycle", "play the [instrument]", "bake bread", "read", "climb trees", "whistle", "dance", "skate", "sew", "paint"],
    "build": ["a tree house", "a little boat", "a bridge", "a snowman", "a kite", "a bird house", "a sand castle", "a raft"],
    "happyword": ["happy", "glad", "full of joy", "proud", "very happy", "delighted"],
    "sadword": ["sad", "worried", "very sad", "unhappy", "upset"],
}

_TOKEN = re.compile(r"[{}|\[\]]|[^{}|\[\]]+")
_CACHE = {}
_START = re.compile(r"(^|[.!?] |\n)([a-z])")


def _parse(tokens, closing):
    """Parses up to `closing`; returns a list of branches, each a list of str / ('slot', name) / alternatives."""
    branches, current = [], []
    for token in tokens:
        if token == closing:
            break
        if token == "{":
            current.append(_parse(tokens, "}"))
        elif token == "[":
            current.append(("slot", next(tokens)))
            next(tokens)
        elif token == "|":
            branches.append(current)
            current = []
        else:
            current.append(token)
    branches.append(current)
    return branches


def _emit(branches, ctx, rng, out):
    branch = branches[int(rng.random() * len(branches))] if len(branches) > 1 else branches[0]
    for node in branch:
        if isinstance(node, str):
            out.append(node)
        elif isinstance(node, list):
            _emit(node, ctx, rng, out)
        else:
            out.append(lookup(node[1], ctx, rng))


def article(word):
    """Puts "a" or "an" before a noun phrase; leaves phrases that have one, or need none, alone."""
    if word.split(" ")[0] in ("a", "an", "the", "two", "some") or word in UNCOUNTED:
        return word
    return ("an " if word[0] in "aeiou" else "a ") + word


UNCOUNTED = {"flour", "sugar", "milk", "butter", "salt", "honey", "nuts", "berries", "apples", "carrots", "cream", "bread",
             "cheese", "candles", "ribbons", "fish", "tea", "soap", "pancakes", "nut cookies", "cheese sandwiches", "fresh bread",
             "carrot soup", "berry jam", "pumpkin soup", "oat porridge", "plum pudding"}


def lookup(name, ctx, rng):
    prefix, _, rest = name.partition(":")
    if rest:
        return article(lookup(rest, ctx, rng))
    value = ctx.get(name)
    if value is None:
        value = expand(rng.choice(LEXICON[name]), ctx, rng)
        if name not in ("weather", "happyword", "sadword"):
            ctx[name] = value
    return value(rng) if callable(value) else value


def expand(template, ctx, rng):
    """Expands one template with the context; a slot that is missing is drawn once and remembered."""
    tree = _CACHE.get(template)
    if tree is None:
        tree = _CACHE[template] = _parse(iter(_TOKEN.findall(template)), None)
    out = []
    _emit(tree, ctx, rng, out)
    return "".join(out)


def capitalise(text):
    return _START.sub(lambda m: m.group(1) + m.group(2).upper(), text)


def person(ctx, key, rng, used):
    """Adds a character under `key`: name, kind, pronouns. Half are children, half are animals."""
    while True:
        girl = rng.random() < 0.5
        roll = rng.random()
        if roll < 0.18:
            name = rng.choice(list(VILLAGE))
            girl = VILLAGE[name][0] == "she"
            kind, adj = VILLAGE[name][2], VILLAGE[name][1]
        else:
            name = rng.choice(GIRLS if girl else BOYS)
            kind = ("girl" if girl else "boy") if roll < 0.55 else rng.choice(LEXICON["animal"])
            adj = rng.choice(LEXICON["adj"])
        if name not in used and kind not in used:
            break
    used.update((name, kind))
    ctx[key + "name"] = name
    ctx[key + "kind"] = kind
    ctx[key + "adj"] = adj
    ctx[key + "full"] = f"{adj} {kind}"
    ctx[key] = lambda r: name if r.random() < 0.75 else "the " + kind
    for slot, word in zip(("he", "him", "his"), ("she", "her", "her") if girl else ("he", "him", "his")):
        ctx[key + slot] = word


INTRO = [
    "once upon a time{,|} there was [a:hfull] named [hname]. {[hhe] lived in [home].|[hname] lived in [home] with [hhis] [family].}",
    "once upon a time, in [home], there lived [a:hfull]. [hhis] name was [hname].",
    "there once was [a:hfull] called [hname]. [hname] {loved|liked} to play in the [place].",
    "[hname] was [a:hfull]. [hhe] lived {in [home]|near the [place]} and {everybody knew [hhim]|had many friends|loved every new day}.",
    "one day, [a:hfull] named [hname] {went for a walk|was playing} in the [place]. [weather].",
    "long ago, [a:hfull] lived {near the [place]|in [home]}. everyone called [hhim] [hname].",
    "in a {small|quiet|far away} village lived [a:hfull] named [hname]. [hhis] best friend was [a:ffull] named [fname].",
]
ENDING = [
    "[hero] was [happyword].", "[hname] smiled and {said, \"Thank you, my friend.\"|gave [fname] a big hug.}", "it was {a wonderful|the best|a very good} day.",
    "from that day on, [hname] and [fname] were {best|good} friends.", "and they all {went home|laughed|sang} together.", "[hname] never forgot that day.",
    "{that night|in the evening} [hname] went to bed and {slept well|had sweet dreams}.", "they lived happily ever after.", "the end.",
]
MORALS = {
    "share": "{[hname] learned that|and so they learned that} it is {better|more fun} to share.",
    "help": "{[hname] learned that|so remember:} even a small friend can be a great help.",
    "truth": "[hname] learned that it is always best to tell the truth.",
    "brave": "[hname] learned that being brave means to try even when you are afraid.",
    "patient": "[hname] learned that good things take time.",
    "together": "[hname] learned that hard work is easy when friends work together.",
    "try": "[hname] learned never to give up.",
    "listen": "[hname] learned to listen to good advice.",
}

# name: (title words, beats, moral key or None, question list)
PLOTS = {
    "lost": ("who loses [a:toy]", [
        "[hname] had [a:toy]. {it was [hhis] favourite toy.|[hhe] played with it every day.|[hhe] loved it very much.}",
        "one day {the [toy] was gone|[hhe] could not find the [toy]|[hhe] lost the [toy] in the [place]}. [hero] was [sadword].",
        "{[hhe] looked [bspot]|[hhe] searched [bspot]}, but {it was not there|there was only [a:thing]}. {then [hhe] looked [cspot]{, but it was not there either|. nothing|. no luck}.|}",
        "[fname], [a:ffull], {came by|heard [hhim] cry|saw [hhim]}. \"{Why are you so sad|What is wrong|What are you looking for}?\" [fhe] asked. \"I {lost|can not find} my [toy],\" said [hname].",
        "\"{Do not worry|Do not cry}. {I will help you|Let us look together},\" said [fname].",
        "{they looked and looked|together they looked everywhere}. {at last|then|in the end} [fname] {found|saw} the [toy] [spot]. \"{Here it is|Look! There it is}!\" [fhe] {said|cried}.",
    ], "help", [("What did [hname] lose?", "[hname] lost [a:toy]."), ("Who found the [toy]?", "[fname] found the [toy]."),
                ("Where was the [toy]?", "The [toy] was [spot].")]),
    "rescue": ("who helps [a:fkind]", [
        "one day [hero] {heard a cry|heard a small voice} in the [place]. \"{Help! Help|Please help me}!\" it {said|cried}.",
        "it was [fname], [a:ffull]. [fhe] was stuck {in a deep hole|in the mud|under a branch|in a net|up in a tree}.",
        "\"{Hold on|Wait|Do not be afraid}! I will help you,\" said [hname].",
        "[hero] {found a long rope|took a strong stick|called for help|pulled with all [hhis] strength}. {slowly, slowly|after a while}{,|} [fname] was free.",
        "\"Thank you, [hname]!\" said [fname]. \"{You are very brave|You are a true friend|I will never forget this}.\"",
        "[fname] gave [hhim] [a:thing] {as a gift|to say thank you}.",
    ], "help", [("Who was stuck?", "[fname] was stuck."), ("What did [fname] give to [hname]?", "[fname] gave [hname] [a:thing]."),
                ("Who helped [fname]?", "[hname] helped [fname].")]),
    "bake": ("who makes [food]", [
        "one {morning|day|Sunday} [hname] wanted to make [food] {for [fname]|for [hhis] [family]|for the whole village}.",
        "[hhe] took [ing1], [ing2] and [ing3]. {[hhe] mixed them in a big bowl.|[hhe] put them all in a pot.}",
        "{\"May I help?\" asked [fname].|[fname] came to help.|[fname] smelled it and came in.} \"{Of course|Yes, please}!\" said [hname]. {\"Please stir it well.\"|\"You can light the fire.\"|}",
        "{they waited and waited|after an hour the kitchen smelled wonderful}. {at last|then} {there was [food] on the table.|[hname] cried, \"It is ready!\"|dinner was ready.}",
        "they {sat down at the table|sat in the garden} and ate {together|it all up|with all their friends}. \"{I never ate such good [food]|How good this tastes|Delicious},\" said [fname].",
    ], "together", [("What did [hname] make?", "[hname] made [food]."), ("Who helped [hname]?", "[fname] helped [hname].")]),
    "storm": ("and a storm", [
        "[hname] and [fname] {were playing|went for a walk} in the [place]. [weather].",
        "{suddenly|then} {the sky grew dark|big clouds came}. {it began to rain|the wind began to blow|there was thunder and lightning}. [fname] was afraid.",
        "\"{Come with me|Do not be afraid|Take my hand},\" said [hname]. \"{I know a safe place|Let us hide in the old barn|We can wait in the cave}.\"",
        "they ran {as fast as they could|hand in hand}. inside it was {warm and dry|dark but dry}. [hname] {told a story|sang a song} until the storm was over.",
        "{then|after the rain} the sun came out again. \"Look!\" {said|cried} [fname]. \"{A rainbow! It is red, yellow, green and blue|There is a rainbow over the [bplace]}!\"",
    ], "brave", [("Who was afraid?", "[fname] was afraid."), ("What did they see after the rain?", "They saw a rainbow.")]),
    "dark": ("who is afraid of the dark", [
        "[hname] was {afraid|scared} of the dark. every night [hhe] {hid under the blanket|could not sleep|lay awake}.",
        "one night [hname] heard a {strange sound|soft noise} [spot]. \"Who is there?\" [hhe] asked.",
        "it was {only|just} [fname], [a:ffull]. \"{I am afraid too|I can not sleep|Please do not be afraid of me},\" said [fname].",
        "[hname] lit a small lamp. {they looked around the room|together they looked out of the window}. {there was nothing to fear.|the moon and the stars were shining.}",
        "\"{The dark is not so bad|The night is beautiful},\" said [hname], \"when {you have a friend|you look at the stars}.\"",
    ], "brave", [("What was [hname] afraid of?", "[hname] was afraid of the dark."), ("Who made the sound?", "It was [fname].")]),
    "share": ("who does not want to share", [
        "[hname] had [a:toy]. [fname], [a:ffull], wanted to play with it too.",
        "\"{May I play with it|Can I have a turn|Please let me try}?\" asked [fname]. \"No! It is mine,\" said [hname].",
        "[fname] {went away|sat down [spot]} and was [sadword]. [hname] played alone, but it was {no fun|boring}.",
        "[hero] {thought about it|felt sorry|looked at [fname]}. then [hhe] {went to [fname]|looked up}. \"{I am sorry. |}{Let us play together|You can have it now},\" [hhe] said.",
        "{they played until the sun went down|they played all day}. {it was much more fun than before.|both of them were happy.}",
    ], "share", [("What did [hname] have?", "[hname] had [a:toy]."), ("Who wanted to play too?", "[fname] wanted to play too.")]),
    "seed": ("who grows [a:flower]", [
        "one day [fname], [a:ffull], gave [hname] a {small|tiny} seed. \"{Put it in the ground|Plant it} and {give it water every day|be patient},\" said [fname].",
        "[hero] {dug a hole in the garden|put it in a pot with good soil} and {planted the seed|put the seed into it}.",
        "every day [hhe] gave it water. {but nothing happened|nothing grew for a long time}. [hname] was [sadword].",
        "\"{Wait a little|Be patient},\" said [fname]. \"{Good things take time|It is sleeping in the ground}.\"",
        "then, one {spring|warm|sunny} morning, {there was a green leaf|a small leaf came up}. it grew and grew, and soon there was a beautiful [colour] [flower].",
    ], "patient", [("What did [fname] give to [hname]?", "[fname] gave [hname] a seed."), ("What colour was the [flower]?", "The [flower] was [colour]."),
                   ("What grew from the seed?", "[a:flower] grew from the seed.")]),
    "market": ("who goes to the market", [
        "[hhis] [family] said, \"{Please go to the market|Go to the market, [hname]}. We need [buy1], [buy2] and [buy3].\"",
        "[hname] took a basket and {walked|went|ran} to the market. {on the way [hhe] said again and again: [buy1], [buy2] and [buy3].|}",
        "first [hhe] bought [buy1]. then [hhe] bought [buy2]. {but [hhe] forgot|then [hhe] could not remember} the last thing.",
        "[fname], [a:ffull], {was at the market too|stood at the gate}. \"{What is it you need|What have you forgotten}?\" asked [fname]. {\"You have [buy1] and [buy2]. Was it [buy3]?\"|\"Perhaps it was [buy3]?\"}",
        "\"Yes! {That is it|It was [buy3]}! Thank you,\" said [hname]. {[hhe] bought [buy3] and|so [hhe]} went home with [buy1], [buy2] and [buy3].",
    ], None, [("What did [hname] buy first?", "[hname] bought [buy1] first."), ("What did [hname] forget?", "[hname] forgot [buy3]."),
              ("Where did [hname] go?", "[hname] went to the market.")]),
    "key": ("who finds a key", [
        "one day [hero] {found|saw} a {small|rusty|golden|silver} key [spot]. \"{What does it open|Which door is it for}?\" [hhe] {asked|wondered}.",
        "[hhe] {tried the key on every door|showed it to [fname]}. it did not fit {the barn|the cupboard|the gate}. it did not fit {the old chest|the clock}{ either|}.",
        "then [fname], [a:ffull], said, \"{There is|I know} a {little|secret} door {behind the ivy|in the big tree|under the bridge|behind the mill}.\"",
        "{they went there together|they ran to see it}. [hname] turned the key. {click! the door opened.|slowly the door opened.}",
        "inside {was|there was} a {box|chest} with [treasure]. \"{How wonderful|We found a treasure|Look at that}!\" {said|cried} [fname].",
    ], None, [("What did [hname] find?", "[hname] found a key."), ("What was inside?", "There was a box with [treasure]."),
              ("Who knew the secret door?", "[fname] knew the secret door.")]),
    "build": ("who builds [build]", [
        "[hname] wanted to build [build]. [hhe] worked all {day|morning}, but {it fell down|it broke|it was too hard}.",
        "{\"I can not do it,\" [hhe] said.|[hero] was [sadword].} {then|just then} [fname], [a:ffull], came by.",
        "\"{Let me help you|We can do it together},\" said [fname]. \"{I will hold it and you tie the rope|You need a strong rope|I will bring the wood}.\"",
        "they worked side by side. [hname] {used a hammer|carried the wood|made the plan} and [fname] {brought nails|tied the knots|painted it [colour]}.",
        "in the evening it was {ready|finished}. {it was strong and beautiful.|it was the best in the whole [place].} everyone came to see it.",
    ], "together", [("What did [hname] want to build?", "[hname] wanted to build [build]."), ("Who helped [hname]?", "[fname] helped [hname].")]),
    "race": ("and a race", [
        "[fname], [a:ffull], was very fast. \"Nobody is as fast as I am,\" [fhe] said. {everybody was tired of it.|}",
        "\"{Let us have a race|I will race you},\" said [hname]. [fname] laughed. \"You? You are so slow!\" {[fhe] said.|}",
        "{the next day|in the morning} they {started|met} in the [place]. \"One, two, three, go!\" {[fname] ran off like the wind.|[fname] was soon far ahead.}",
        "{but then|half way} [fname] {stopped to sleep under a tree|sat down to eat|played with [a:toy]}. [hname] went on, {step by step|slow but sure}.",
        "when [fname] {woke up|looked up}, [hname] was {already|} at the end. \"{I won|Slow and steady wins the race}!\" said [hname].",
    ], "try", [("Who won the race?", "[hname] won the race."), ("Who lost the race?", "[fname] lost the race.")]),
    "learn": ("who learns to [skill]", [
        "[hname] wanted to learn to [skill]. {all [hhis] friends could do it.|but it was very hard.}",
        "[hhe] tried once. [hhe] tried twice. {it did not work.|it went wrong every time.} [hero] was [sadword].",
        "\"{I can not do it|It is too hard},\" said [hname]. \"Not yet,\" said [fname], [a:ffull]. \"{I will show you|Try again, a little every day}.\"",
        "{every day|day after day} they practised {in the [place]|together}. [fname] showed [hhim] how to do it. {little by little it went better.|[hname] fell, and got up again.}",
        "{then one day|after a week} [hname] could [skill]. \"{I can do it|Look at me}!\" [hhe] cried. [fname] clapped {with joy|and laughed}.",
    ], "try", [("What did [hname] want to learn?", "[hname] wanted to learn to [skill]."), ("Who showed [hname] how to do it?", "[fname] showed [hname] how to do it.")]),
    "truth": ("who breaks a vase", [
        "[hname] was playing with [a:toy] {in the house|in the kitchen}. {bang|crash}! the {blue|white|big|old} vase fell down and broke.",
        "{[hhe] hid the pieces [spot].|[hero] was afraid.} \"Who broke the vase?\" asked [hhis] [family].",
        "\"{It was [fname]|I do not know}!\" said [hname]. {poor [fname], [a:ffull], had done nothing.|[fname] looked at [hhim] with big eyes.}",
        "[hname] felt {bad|a stone in [hhis] heart}. {at last|in the evening} [hhe] said, \"I am sorry. I broke the vase.\"",
        "\"Thank you for telling {me |}the truth,\" said [hhis] [family]. \"{A vase is only a vase|We can glue it together}.\" {[hname] said sorry to [fname] too.|}",
    ], "truth", [("Who broke the vase?", "[hname] broke the vase."), ("What broke?", "The vase broke.")]),
    "missing": ("who looks for [a:fkind]", [
        "[fname], [a:ffull], was missing. {nobody had seen [fhim] since morning.|everyone was worried.}",
        "\"I will find [fhim],\" said [hname]. [hhe] {went into|looked in} the [place]. \"[fname]! Where are you?\" [hhe] called.",
        "{first it was quiet|there was no answer at first}. then [hhe] heard {a soft sound|a little voice} [spot].",
        "there {sat|was} [fname]. [fhe] {had hurt [fhis] leg|had lost the way|had fallen asleep}. \"I am so glad you {came|found me},\" said [fname].",
        "[hname] {carried [fhim] home|took [fhis] hand and they went home}. everyone {cheered|was happy} and they ate [food].",
    ], "help", [("Who was missing?", "[fname] was missing."), ("Where was [fname]?", "[fname] was [spot]."), ("What did they eat?", "They ate [food].")]),
    "birthday": ("and a birthday", [
        "it was [fname]'s birthday. [hname] wanted to give [fhim] a {nice|special} present, but [hhe] had no money.",
        "[hhe] {thought and thought|looked [spot]}. \"{I will make something myself|I have an idea},\" said [hname].",
        "[hhe] made [a:thing] and painted it [colour]. {it took all night.|it was not perfect, but it was made with love.}",
        "at the party there {were many presents|was [food] for everyone}. {[fname], [a:ffull], opened them all.|} then [fname] opened the present from [hname].",
        "\"This is the best present of all,\" said [fname], \"because you made it {yourself|for me}.\"",
    ], None, [("Whose birthday was it?", "It was [fname]'s birthday."), ("What did [hname] make?", "[hname] made [a:thing]."),
              ("What colour was the [thing]?", "The [thing] was [colour].")]),
    "star": ("and a star", [
        "every night [hname] looked at the stars. \"I wish I had {a friend|a star of my own},\" [hhe] said.",
        "one night a {little|bright} star fell from the sky. it fell {into the [place]|[spot]}. [hhe] ran to see it.",
        "there [hhe] met [fname], [a:ffull], who had seen it too. \"{Is it your star|Did you see it fall}?\" asked [fname].",
        "the star was cold and {sad|afraid}. \"I want to go home,\" it said. {they put it on [a:toy]|they made a long ladder|they blew and blew} and {sent it back to the sky|up it went}.",
        "{now|since then} a star {shines|winks} over the house every night. [hname] has {no star|only a light far away}, but [hhe] has a friend.",
    ], None, [("Who did [hname] meet?", "[hname] met [fname]."), ("What fell from the sky?", "A star fell from the sky.")]),
    "music": ("who plays the [instrument]", [
        "[hname] found an old [instrument] [spot]. {[hhe] blew off the dust and began to play.|[hhe] wanted to play it at once.}",
        "{but it sounded bad|it made a terrible noise}. {the birds flew away.|the neighbours closed their windows.}",
        "\"May I show you?\" asked [fname], [a:ffull]. \"{Play softly|Listen first}, {and then slowly|and count to four}.\"",
        "[hname] {listened well|practised every day}. {soon|after some weeks} the music was {sweet|beautiful}.",
        "at the {feast|spring feast|village feast} [hname] played the [instrument] and [fname] {sang|danced}. everyone {clapped|danced until midnight}.",
    ], "listen", [("What did [hname] find?", "[hname] found an old [instrument]."), ("Where was the [instrument]?", "The [instrument] was [spot].")]),
    "tidy": ("who does not tidy up", [
        "[hname]'s room was a {great|big} mess. {there were socks, books and toys everywhere.|nobody could see the floor.}",
        "\"Please tidy your room,\" said [hhis] [family]. \"{Later|Not now},\" said [hname].",
        "then [fname], [a:ffull], came to {play|visit}. \"{Let us play with the [toy],\" [fhe] said|Where is your [toy]?\" [fhe] asked}. but [hname] could not find it.",
        "so they {began to tidy up|put everything in its place}. they put the books on the shelf, the socks in the drawer and the toys in the box.",
        "and there, [spot], was the [toy]! {now they could play.|the room looked bright and clean.}",
    ], "listen", [("What was [spot]?", "The [toy] was [spot]."), ("Who came to visit?", "[fname] came to visit.")]),
}
ALT_REQUEST = ["Tell me a story{.|}", "Tell me a story about [a:hkind]{.|}", "Tell me a story about [a:hkind] and [a:fkind]{.|}",
               "{Please tell|Can you tell|Tell} me a story about [a:hkind] [title]{.|}", "Write a {short |}story about [hname] and [fname]{.|}",
               "I want a story about [a:hfull]{.|}", "Tell {me|us} a bedtime story{.|}", "Write a story about [a:hkind] named [hname]{.|}"]


def make_story(rng):
    """Returns (context, plot title template, story text, question/answer templates)."""
    ctx, used = {}, set()
    person(ctx, "h", rng, used)
    person(ctx, "f", rng, used)
    ctx["hero"] = ctx["h"]
    ctx["friend"] = ctx["f"]
    ctx["bspot"], ctx["cspot"], ctx["spot"] = rng.sample(LEXICON["spot"], 3)
    ctx["ing1"], ctx["ing2"], ctx["ing3"] = rng.sample(LEXICON["ingredient"], 3)
    ctx["buy1"], ctx["buy2"], ctx["buy3"] = rng.sample(LEXICON["buy"], 3)
    ctx["bplace"], ctx["place"] = rng.sample(LEXICON["place"], 2)
    title, beats, moral, questions = PLOTS[rng.choice(PLOT_NAMES)]
    intro = rng.choice(INTRO[:6]) if rng.random() < 0.85 else INTRO[6]
    # INTRO[6] already presents the friend, so the beats' "[fname], a ... ," appositions would repeat it.
    parts = [expand(intro, ctx, rng)]
    for beat in beats:
        if intro is INTRO[6]:
            beat = beat.replace("[fname], [a:ffull],", "[fname]")
        parts.append(expand(beat, ctx, rng).strip())
    if moral and rng.random() < 0.6:
        parts.append(expand(MORALS[moral], ctx, rng))
    parts += [expand(ENDING[i], ctx, rng) for i in sorted(rng.sample(range(len(ENDING) - 1), rng.choice((1, 1, 2))))]
    if rng.random() < 0.1:
        parts.append("the end.")
    gap = "\n" if rng.random() < 0.15 else " "
    text = gap.join(capitalise(p.replace("  ", " ")) for p in parts)
    return ctx, title, text, questions


PLOT_NAMES = list(PLOTS)
