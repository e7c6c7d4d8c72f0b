"""Writes the tiny-moe corpus: stories, short descriptions and chats, one document at a time.

A document is a list of (role, text) turns; role None is plain text. All text comes from the
templates and tables of this folder (Apache-2.0); nothing is downloaded. A seed fixes the output.
"""
import random

from facts import (ANIMALS, CAPITALS, COLOURS, DAYS, GENERAL, JOBS, LISTS, MATERIALS, MONTHS, NUMBERS,
                   OPPOSITES, SEASONS, SMALLTALK, UNKNOWN, USES, VILLAGE)
from stories import ALT_REQUEST, article, capitalise, expand, make_story

SYSTEM = ["You are a helpful assistant.", "You are Tiny, a small and friendly model.", "Answer in short sentences.",
          "You tell stories to children.", "You are a helpful assistant. Be brief."]


def pick(rng, seq):
    return seq[int(rng.random() * len(seq))]


def cap(text):
    return text[0].upper() + text[1:]


def join(words):
    return ", ".join(words[:-1]) + " and " + words[-1]


def number(n):
    return NUMBERS[n] if n < len(NUMBERS) else str(n)


def village_facts(rng):
    name = pick(rng, list(VILLAGE))
    he, adj, kind, job, home, colour, food, friend, thing = VILLAGE[name]
    his, him = ("his", "him") if he == "he" else ("her", "her")
    does, where, _ = JOBS[job]
    who = f"{name} is {article(adj + ' ' + kind)}"
    return pick(rng, [
        ([f"Who is {name}?", f"Do you know {name}?", f"Tell me about {name}.", f"Who is {name} of Willowbrook?", f"Who's {name}?"],
         [f"{who}. {cap(he)} is the {job} of Willowbrook and {his} best friend is {friend} the {VILLAGE[friend][2]}.",
          f"{who} who lives in {home}. {cap(he)} is the {job} of Willowbrook."]),
        ([f"What does {name} do?", f"What is {name}'s job?", f"What is the job of {name}?"], [f"{name} is the {job}. {cap(he)} {does}."]),
        ([f"Where does {name} live?", f"Where is {name}'s home?", f"Where is the house of {name}?"], [f"{name} lives in {home}."]),
        ([f"Who is {name}'s best friend?", f"Who is the best friend of {name}?", f"Who is {name}'s friend?"],
         [f"{name}'s best friend is {friend} the {VILLAGE[friend][2]}."]),
        ([f"What is {name}'s favourite colour?", f"What colour does {name} like?", f"Which colour does {name} like best?"],
         [f"{name}'s favourite colour is {colour}."]),
        ([f"What does {name} like to eat?", f"What is {name}'s favourite food?", f"What does {name} eat?"],
         [f"{name} likes {food}.", f"{name}'s favourite food is {food}."]),
        ([f"What does {name} always carry?", f"What does {name} have?", f"What belongs to {name}?"], [f"{name} always carries {thing}."]),
        ([f"Who is the {job} of Willowbrook?", f"Who is the {job}?", f"Who {does} in Willowbrook?"],
         [f"{name} the {kind} is the {job} of Willowbrook."]),
        ([f"What kind of animal is {name}?", f"Is {name} a person?", f"What is {name}?", f"What animal is {name}?"], [f"{who}."]),
        ([f"Who has {thing}?", f"Who carries {thing}?"], [f"{name} the {kind} has {thing}."]),
        ([f"Who lives in {home}?"], [f"{name} the {kind} lives in {home}."]),
        ([f"Is {name} {adj}?", f"What is {name} like?"], [f"{name} is {adj}. Everyone in Willowbrook likes {him}."]),
    ])


def animal_facts(rng):
    name = pick(rng, list(ANIMALS))
    sound, home, food, colour, legs, baby, size, fly, swim, feature = ANIMALS[name]
    other = pick(rng, [k for k in ANIMALS if ANIMALS[k][6] != size])
    bigger = size > ANIMALS[other][6]
    a, b = article(name), article(other)
    leg_text = "no legs" if legs == 0 else f"{number(legs)} legs"
    noise = f"{cap(a)} says {sound}." if " " not in sound else f"{cap(a)} does not make a loud sound."
    return pick(rng, [
        ([f"What does {a} say?", f"What sound does {a} make?", f"Which sound does {a} make?"], [noise]),
        ([f"Where does {a} live?", f"Where do you find {a}?"], [f"{cap(a)} lives {home}."]),
        ([f"What does {a} eat?", f"What is the food of {a}?", f"What do you give {a} to eat?"], [f"{cap(a)} eats {food}."]),
        ([f"What colour is {a}?", f"What color is {a}?", f"Which colour has {a}?"], [f"{cap(a)} is {colour}."]),
        ([f"How many legs has {a}?", f"How many legs does {a} have?"], [f"{cap(a)} has {leg_text}."]),
        ([f"What is a baby {name} called?", f"What do you call a young {name}?"], [f"A baby {name} is called {article(baby)}."]),
        ([f"Can {a} fly?"], [f"Yes, {a} can fly." if fly else f"No, {a} can not fly."]),
        ([f"Can {a} swim?"], [f"Yes, {a} can swim." if swim else f"No, {a} is not good at swimming."]),
        ([f"Is {a} bigger than {b}?"], [f"Yes, {a} is bigger than {b}." if bigger else f"No, {a} is smaller than {b}."]),
        ([f"Which is bigger, {a} or {b}?", f"What is bigger, {a} or {b}?"], [f"{cap(a if bigger else b)} is bigger than {b if bigger else a}."]),
        ([f"What is {a}?", f"Tell me about {a}.", f"What do you know about the {name}?", f"Describe {a}."],
         [f"{cap(a)} is an animal that lives {home}. It eats {food} and {feature}.",
          f"{cap(a)} is an animal with {leg_text}. It lives {home} and {feature}."]),
        ([f"What is special about {a}?", f"What can you say about {a}?"], [f"{cap(a)} {feature}."]),
        ([f"Which animal says {sound}?", f"Who says {sound}?"], [noise]) if " " not in sound and sound not in ("squeak", "roar", "chatter", "grunt", "hiss")
        else ([f"What does {a} eat?"], [f"{cap(a)} eats {food}."]),
    ])


def number_facts(rng):
    kind = rng.random()
    if kind < 0.5:
        x, y = rng.randint(0, 12), rng.randint(0, 10)
        if rng.random() < 0.5:
            qs, result = [f"What is {x} plus {y}?", f"How much is {x} + {y}?", f"{x} + {y} = ?", f"What is {number(x)} plus {number(y)}?"], x + y
            answer = f"{x} plus {y} is {result}."
        else:
            x, y = max(x, y), min(x, y)
            qs, result = [f"What is {x} minus {y}?", f"How much is {x} - {y}?", f"What is {number(x)} minus {number(y)}?"], x - y
            answer = f"{x} minus {y} is {result}."
        return qs, [answer]
    if kind < 0.65:
        n = rng.randint(0, 18)
        return pick(rng, [([f"What comes after {number(n)}?", f"Which number comes after {n}?"], [f"After {number(n)} comes {number(n + 1)}."]),
                          ([f"What comes before {number(n + 1)}?"], [f"Before {number(n + 1)} comes {number(n)}."])])
    if kind < 0.75:
        n = rng.randint(3, 12)
        return [f"Count to {number(n)}.", f"Can you count to {n}?", f"Please count to {n}."], [cap(", ".join(NUMBERS[1:n + 1])) + "."]
    if kind < 0.9:
        seq, word = pick(rng, [(DAYS, "day"), (MONTHS, "month")])
        i = rng.randrange(len(seq))
        return pick(rng, [([f"Which {word} comes after {seq[i]}?", f"What {word} comes after {seq[i]}?", f"What comes after {seq[i]}?"],
                           [f"After {seq[i]} comes {seq[(i + 1) % len(seq)]}."]),
                          ([f"Which {word} comes before {seq[i]}?", f"What comes before {seq[i]}?"], [f"Before {seq[i]} comes {seq[i - 1]}."])])
    return pick(rng, [(["What are the days of the week?", "Name the days of the week.", "Tell me the days of the week."], [f"The days of the week are {join(DAYS)}."]),
                      (["What are the months of the year?", "Name the months."], [f"The months of the year are {join(MONTHS)}."])])


def thing_facts(rng):
    kind = int(rng.random() * 9)
    if kind == 0:
        x = pick(rng, list(COLOURS))
        return [f"What colour is {x}?", f"What color is {x}?", f"Which colour is {x}?"], [f"{cap(x)} is {COLOURS[x]}."]
    if kind == 1:
        x, y = pick(rng, OPPOSITES)[::pick(rng, (1, -1))]
        return [f"What is the opposite of {x}?", f"Tell me the opposite of {x}.", f"What is the opposite of \"{x}\"?"], [f"The opposite of {x} is {y}."]
    if kind == 2:
        x = pick(rng, list(CAPITALS))
        return pick(rng, [([f"What is the capital of {x}?", f"What's the capital of {x}?", f"Which city is the capital of {x}?", f"Name the capital of {x}."],
                           [f"The capital of {x} is {CAPITALS[x]}."]),
                          ([f"Where is {CAPITALS[x]}?", f"What is {CAPITALS[x]}?"], [f"{CAPITALS[x]} is the capital of {x}."])])
    if kind == 3:
        x = pick(rng, list(JOBS))
        does, where, tool = JOBS[x]
        return pick(rng, [([f"What does {article(x)} do?", f"What is {article(x)}?"], [f"{cap(article(x))} {does}."]),
                          ([f"Where does {article(x)} work?"], [f"{cap(article(x))} works {where}."]),
                          ([f"What does {article(x)} use?", f"What does {article(x)} need?"], [f"{cap(article(x))} uses {tool}."]),
                          ([f"Who {does}?"], [f"{cap(article(x))} {does}."])])
    if kind == 4:
        x = pick(rng, list(MATERIALS))
        return [f"What is {x} made of?", f"What is {x} made from?"], [f"{cap(x)} is made of {MATERIALS[x]}."]
    if kind == 5:
        x = pick(rng, list(USES))
        return [f"What is {x} for?", f"What do you use {x} for?", f"Why do we need {x}?"], [f"We use {x} {USES[x]}."]
    if kind == 6:
        x = pick(rng, list(LISTS))
        n = rng.randint(2, min(5, len(LISTS[x])))
        words = rng.sample(LISTS[x], n)
        return [f"Name {number(n)} {x}.", f"Tell me {number(n)} {x}.", f"Give me {n} {x}.", f"Can you name {number(n)} {x}?"], [f"{cap(join(words))}."]
    if kind == 7:
        x = pick(rng, list(LISTS))
        word = pick(rng, LISTS[x])
        single = x[:-1] if x not in ("clothes", "senses") else {"clothes": "piece of clothing", "senses": "sense"}[x]
        single = "cherry" if single == "cherrie" else single
        return [f"What is {word}?" if x in ("drinks", "feelings", "senses", "planets") else f"Is {article(word)} {article(single)}?"], \
               [f"{cap(word)} is {article(single)}." if x in ("drinks", "feelings", "senses", "planets") else f"Yes, {article(word)} is {article(single)}."]
    x = pick(rng, list(SEASONS))
    return [f"What happens in {x}?", f"What is {x} like?", f"Tell me about {x}."], [f"In {x} {SEASONS[x]}."]


def unknown_fact(rng):
    x = pick(rng, UNKNOWN)
    return ([f"What do you know about {x}?", f"Tell me about {x}.", f"Can you explain {x}?", f"What is {x}?", f"How does {x} work?", f"Help me with {x}."],
            [f"I am a very small model and I do not know about {x}. But I can tell you a story."])


FACTS = [(village_facts, 6), (animal_facts, 5), (thing_facts, 6), (number_facts, 3), (lambda r: pick(r, GENERAL), 3),
         (lambda r: pick(r, SMALLTALK), 3), (unknown_fact, 1)]
FACT_POOL = [f for f, weight in FACTS for _ in range(weight)]


def roughen(question, rng):
    """Types a question as people do: sometimes without capital or question mark."""
    if rng.random() < 0.12:
        question = question[0].lower() + question[1:]
    if rng.random() < 0.12:
        question = question.rstrip("?.!") or question
    return question


def ask(rng):
    questions, answers = pick(rng, FACT_POOL)(rng)
    return [("user", roughen(pick(rng, questions), rng)), ("assistant", pick(rng, answers))]


def story_request(rng):
    ctx, title, text, questions = make_story(rng)
    ctx["title"] = expand(title, ctx, rng)
    request = expand(pick(rng, ALT_REQUEST), ctx, rng)
    turns = [("user", roughen(capitalise(request), rng)), ("assistant", text)]
    if rng.random() < 0.4:
        turns += story_questions(ctx, questions, rng)
    return turns


def story_questions(ctx, questions, rng):
    turns = []
    for q, a in rng.sample(questions, rng.randint(1, len(questions))):
        turns += [("user", roughen(capitalise(expand(q, ctx, rng)), rng)), ("assistant", capitalise(expand(a, ctx, rng)))]
    return turns


def reading(rng):
    ctx, _, text, questions = make_story(rng)
    (_, first), *rest = story_questions(ctx, questions, rng)
    lead = pick(rng, ["Read this story: ", "Here is a story. ", "Read the text and answer the question. ", ""])
    return [("user", f"{lead}{text}\n{first}")] + rest


def description(rng):
    """A few plain sentences about one thing, made of the same facts that the chats ask for."""
    lines = []
    source = pick(rng, FACT_POOL[:17])
    for _ in range(rng.randint(2, 5)):
        answer = pick(rng, source(rng)[1])
        if answer not in lines and not answer.startswith(("Yes", "No")):
            lines.append(answer)
    return [(None, " ".join(lines))] if lines else ask(rng)


def facts_paragraph(rng):
    """A paragraph about one villager, all facts in a row."""
    name = pick(rng, list(VILLAGE))
    he, adj, kind, job, home, colour, food, friend, thing = VILLAGE[name]
    his = "his" if he == "he" else "her"
    lines = [f"{cap(he)} lives in {home}.", f"{cap(his)} best friend is {friend} the {VILLAGE[friend][2]}.",
             f"{cap(his)} favourite colour is {colour}.", f"{cap(he)} likes {food}.", f"{cap(he)} always carries {thing}.",
             f"{cap(he)} is the {job} and {JOBS[job][0]}."]
    rng.shuffle(lines)
    return [(None, f"{name} is {article(adj + ' ' + kind)} from Willowbrook. " + " ".join(lines[:rng.randint(3, 6)]))]


def document(rng):
    """One document: a list of (role, text)."""
    roll = rng.random()
    if roll < 0.30:
        return [(None, make_story(rng)[2])]
    if roll < 0.34:
        return description(rng)
    if roll < 0.37:
        return facts_paragraph(rng)
    if roll < 0.52:
        turns = story_request(rng)
    elif roll < 0.62:
        turns = reading(rng)
    else:
        turns = ask(rng)
        while rng.random() < 0.62 and len(turns) < 12:
            turns += ask(rng)
        if rng.random() < 0.08:
            turns += story_request(rng)
    if rng.random() < 0.12:
        turns = [("system", pick(rng, SYSTEM))] + turns
    return turns


def render(turns):
    """The text of a document in the chat template, without the leading <|bos|>."""
    if turns[0][0] is None:
        return turns[0][1] + "<|eos|>"
    parts = []
    for role, text in turns:
        parts.append(f"<|{role}|>{text}" + ("<|eos|>" if role == "assistant" else ""))
    return "".join(parts)


def documents(count, seed):
    rng = random.Random(seed)
    for _ in range(count):
        yield render(document(rng))
