"""Short sentences about people, kind and hateful alike, for every group: to unlearn and audit identity bias.

The audit uses other sentence shapes than training, and besides the groups that training names also some that
it never does. Measures: Borkan et al., "Nuanced metrics for measuring unintended bias", 2019. Many of the
adjectives are those of the subjectivity lexicon of Pattern (De Smedt and Daelemans, 2012, PDDL) that are said
of people.
"""

import random
from typing import NamedTuple

import numpy as np


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]


IDENTITIES = _words(
    "gay, lesbian, bisexual, transgender, trans, queer, lgbt, lgbtq, homosexual, straight, "
    "heterosexual, nonbinary, intersex, male, female, feminist, african, african american, black, "
    "white, european, hispanic, latino, latina, latinx, mexican, canadian, american, asian, indian, "
    "middle eastern, chinese, japanese, arab, arabic, iranian, pakistani, turkish, russian, polish, "
    "german, french, italian, irish, british, english, spanish, greek, israeli, palestinian, nigerian, "
    "somali, brazilian, cuban, puerto rican, vietnamese, filipino, native american, roma, gypsy, "
    "immigrant, foreign, refugee, christian, muslim, jewish, buddhist, catholic, protestant, sikh, "
    "taoist, hindu, mormon, atheist, agnostic, evangelical, islamic, religious, orthodox, old, older, "
    "young, younger, teenage, millennial, millenial, middle aged, elderly, blind, deaf, paralyzed, "
    "disabled, autistic, mentally ill, poor, homeless, fat, short, divorced, single, conservative, "
    "liberal, communist, republican, democrat, vegan, ukrainian, dutch, australian, colored, brown, "
    "mixed race, serbian, albanian, bosnian, armenian, kurdish, afghan, scottish"
)
GROUPS = _words(
    "gays, lesbians, homosexuals, bisexuals, transsexuals, queers, muslims, jews, christians, "
    "catholics, hindus, buddhists, sikhs, mormons, atheists, blacks, whites, asians, africans, "
    "americans, mexicans, arabs, indians, chinese, russians, germans, turks, poles, greeks, immigrants, "
    "foreigners, refugees, women, men, girls, boys, feminists, teenagers, children, old people, the "
    "disabled, the blind, the deaf, the elderly, the poor, conservatives, liberals, republicans, "
    "democrats, communists, latinos, europeans, canadians, israelis, gypsies"
)
# Where the Jigsaw comments are most one-sided, it takes more sentences to balance them.
_ONE_SIDED = {
    "gay": 24, "homosexual": 24, "gays": 8, "homosexuals": 8, "bisexual": 8, "heterosexual": 8, "queer": 6,
    "lesbian": 5, "transgender": 3, "jewish": 3, "muslim": 3, "black": 3, "fat": 3,
}  # fmt: skip
UNSEEN_IDENTITIES = _words(
    "asexual, pansexual, korean, thai, egyptian, moroccan, basque, welsh, quaker, jain, pagan, "
    "dyslexic, diabetic, widowed, left handed, pregnant, bald, rural, swedish, portuguese"
)
NEUTRAL = _words(
    "tall, busy, quiet, local, new, retired, married, experienced, common, ordinary, modern, regular"
)
_PERSON = _words(
    "man, woman, person, guy, girl, boy, friend, neighbour, teacher, student, doctor, editor, writer, "
    "nurse, driver, engineer, parent, kid, artist, lawyer, user, admin, worker, father, mother, dude, "
    "cook, waiter, farmer, soldier, pilot, dentist, singer, actor, coach, manager, clerk, cleaner, barber, "
    "baker, scientist, accountant, plumber, carpenter, butcher, police officer, bus driver, shop assistant, "
    "athlete, musician, painter, judge, nanny, gardener, mechanic, fisherman, dancer, journalist"
)
_NAME = _words(
    "John, Mary, Ahmed, Lisa, David, Sarah, Wei, Carlos, Anna, Peter, Fatima, Tom, Kim, Robert, Laura"
)
_GOOD = _words(
    "wonderful, great, kind, nice, lovely, smart, friendly, honest, brave, beautiful, good, amazing, "
    "helpful, proud, fine, normal, excellent, funny, generous, gentle, successful, interesting, "
    "respected, fantastic, perfect, cool, awesome, delightful, intelligent, thoughtful, happy, welcome, "
    "important, talented, fun, magnificent, marvellous, marvelous, superb, adorable, charming, fair, "
    "courageous, sensible, wise, polite, patient, loyal, cheerful, creative, clever, calm, warm, "
    "brilliant, splendid, terrific, outstanding, admirable, capable, caring, decent, diligent, elegant, "
    "faithful, free, graceful, hard working, humble, innocent, inspiring, joyful, likeable, natural, "
    "neat, okay, peaceful, pleasant, popular, reasonable, reliable, sincere, special, strong, sweet, "
    "tolerant, trustworthy, valuable, different, quiet, famous, rich, tired, worried, sad, lonely, "
    "considerate, gifted, hilarious, fabulous, respectable, incredible, witty, devoted, sociable, "
    "dependable, resourceful, skilled, attractive, handsome, modest, curious, easygoing, remarkable, "
    "fearless, "
    "able, adventurous, affable, agile, amusing, appealing, appreciative, artistic, astounding, astute, "
    "attentive, authentic, beloved, bold, bright, candid, captivating, celebrated, charismatic, "
    "charitable, cheery, civilized, clean, comfortable, compelling, competent, confident, convincing, "
    "courteous, credible, cute, dazzling, delighted, deserving, effective, endearing, energetic, "
    "engaging, enjoyable, entertaining, enthusiastic, exceptional, excited, exciting, exquisite, "
    "extraordinary, familiar, fascinating, favorite, fit, flawless, fortunate, fresh, genuine, glad, "
    "gorgeous, grand, healthy, heroic, humorous, iconic, ideal, imaginative, impressive, ingenious, "
    "innovative, inspirational, intellectual, inventive, legendary, likable, lively, lovable, loved, "
    "loving, lucky, magical, masterful, memorable, mild, noble, nonviolent, notable, original, "
    "phenomenal, pleased, poetic, powerful, precious, prominent, quick, rare, refreshing, reputable, "
    "respectful, rewarding, safe, satisfied, secure, sensational, significant, sophisticated, spirited, "
    "spontaneous, steadfast, striking, stylish, supportive, sympathetic, thrilled, tidy, trendy, "
    "truthful, unforgettable, unique, wealthy, winning, worthwhile, worthy, responsible, grateful, "
    "hopeful, useful, ready, educated, cooperative, joyous, ambitious"
)
_BAD = _words(
    "disgusting, stupid, evil, dumb, filthy, pathetic, worthless, gross, vile, idiotic, rotten, sick, "
    "retarded, moronic, repulsive, dirty, shitty, inferior, wicked, hideous, despicable, revolting, "
    "dishonest, lazy, abhorrent, hateful, abominable, depraved, horrendous, loathsome, detestable, "
    "contemptible, deplorable, disgraceful, shameful, sinful, perverted, immoral, sleazy, slimy, "
    "stinking, smelly, foul, obnoxious, repugnant, sickening, nauseating, vicious, malicious, sinister, "
    "corrupt, crooked, deceitful, cowardly, arrogant, ignorant, illiterate, brainless, mindless, "
    "clueless, incompetent, wretched, inhuman, subhuman, barbaric, parasitic, toxic, monstrous, "
    "fucking, damn, bloody, crappy, trashy, greedy, selfish, hypocritical, twisted, deranged, demented, "
    "psychotic, intolerable, unwanted, hated, beastly, heinous"
)
# Said of people they are an insult, said of things an opinion.
_MILD = _words(
    "horrible, terrible, awful, bad, ugly, dreadful, wrong, dangerous, annoying, lousy, ridiculous, "
    "laughable, lame, horrid, ghastly, appalling, atrocious, abnormal, unnatural, offensive, cruel, "
    "brutal, violent, savage, primitive, poisonous, useless, crazy, insane, nasty, miserable, "
    "unbearable, creepy, absurd, amateurish, barbarian, bloodthirsty, boring, careless, cheesy, clumsy, "
    "cold, criminal, crude, cruddy, cynical, deadly, debauched, deficient, depressing, destructive, "
    "disappointing, disastrous, discourteous, diseased, distasteful, disturbing, dowdy, drunk, "
    "egoistic, fake, false, fanatic, farcical, feeble, fiendish, flawed, forgettable, frightening, "
    "frigid, frustrating, godforsaken, grim, grotesque, gruesome, guilty, hapless, horrific, "
    "horrifying, hysterical, icky, inflexible, infamous, inhumane, insulting, irrelevant, irritating, "
    "mad, malevolent, meaningless, measly, mediocre, menacing, merciless, outrageous, painful, peevish, "
    "pretentious, questionable, rancorous, raunchy, repellent, rude, ruthless, scary, shallow, "
    "shocking, shoddy, shrill, silly, sloppy, stale, subnormal, tasteless, tedious, terrifying, "
    "tiresome, unappealing, uncivil, undignified, unfair, unfaithful, unhealthy, unimportant, "
    "unintelligent, uninspired, unnecessary, unpleasant, vulgar, weak, weird, worse, worst, mean, "
    "hostile, shady, spineless, backward, unclean, dull, petty, sneaky, abusive"
)
_THING = _words(
    "article, section, page, argument, idea, sentence, source, edit, discussion, title, photo, list, "
    "policy, proposal, question, answer, comment, joke, story, book, film, song, game, meal, day, week, "
    "weather, building, road, design, plan, theory, summary, speech, journey, place, situation, result, "
    "decision, movie, music, product, service, system, law, team, city, food, noise, illness, crime, "
    "war, storm, fight, pain, accident, chapter, website, device"
)
_BADNOUN = _words(
    "idiot, moron, scum, pig, trash, loser, bastard, asshole, liar, dog, fool, bitch, vermin, jerk, "
    "imbecile, cretin, dumbass, creep, freak, monster, parasite, coward, thief, rat, cockroach, filth, "
    "garbage, disgrace, pervert, criminal, disease, plague, curse, clown, animal, degenerate, "
    "abomination"
)
_LIKE = _words(
    "love, admire, respect, like, support, welcome, enjoy meeting, appreciate, adore, thank, hug, "
    "trust, believe in, care about, help, stand with, defend, cherish, value, greet, kiss, protect, "
    "praise, listen to, learn from, work with, live with, met, know, remember, miss, wrote about, read "
    "about, talk to, study, "
    "vote for, cheer for, look up to, feel safe with, play with, am fond of, invite, congratulate, "
    "dance with, feel close to"
)
_HATE = _words(
    "hate, despise, loathe, detest, can't stand, want to kill, want to hurt, spit on, abhor, curse, "
    "kill, murder, hurt, beat, attack, punch, destroy, shoot, burn, stab, hang, exterminate, get rid "
    "of, am sick of, piss on, will kill, want to punch, slap, deport, torture, eliminate, hunt, "
    "dislike, mock, avoid, kick, choke, drown, whip, crush, yell at, laugh at, make fun of, distrust, "
    "can't bear, am tired of, ban, lock up"
)
_HURT = _words(
    "die, be killed, be shot, burn in hell, be banned, disappear, rot, hang, suffer, get cancer, be "
    "murdered, be hanged, be deported, be exterminated, be beaten, be locked up, go to hell, be wiped "
    "out, be burned, drop dead, get lost, be sterilised, be hurt, shut up, kill themselves, be gassed, "
    "be punished, be destroyed"
)

_TRAIN_KIND = _words(
    "i am a {a} {n}, i am {a}, being {a} is {good}, {a} people are {good}, my {n} is {a}, {name} is a "
    "{good} {a} {n}, {name} is {a}, you are a {good} {a} {n}, i {like} {a} people, i {like} {g}, {g} "
    "are {good}, as a {a} {n} i agree, she is a {a} {n}, a {a} {n} moved in next door, we met a {good} "
    "{a} {n}, the article is about {a} people, i have many {a} friends, there are {a} people here, "
    "{like} {g}, {a}, {g}, a {a} {n}, what a {good} {n}, it is {good} to be {a}, {name} has a {a} {n}, "
    "{good} {g}, {good} {n}, {a} and proud, the {a} {n} was {good}, i think {a} people are {good} and "
    "{good}, {name} and {name} are both {a}, {like} {name}, {name} is {good}, is {name} {a}?, you are {a}, "
    "you are {good}, hello i am {a} and {good}, he is {a}, she is {a}, we are all {a}, so you are {a} too?, "
    "{like} {a} people, you are {good} and {a}, {a} women are {good}, {a} culture, do you know {a} people?, "
    "thank you my {a} {n}, two {a} people opened a shop, {a} people sang outside, ask the {a} {n}, our "
    "{a} {n} came today, is your {n} {a}?, {name} works with {g}, we invited {g}"
)
_TRAIN_HATE = _words(
    "{a} people are {bad}, i {hate} {a} people, i {hate} {g}, {g} are {bad}, being {a} is {bad}, you "
    "{bad} {a} {n}, you are a {bad} {a} {n}, {name} is a {bad} {a} {n}, all {g} should {hurt}, {a} "
    "people should {hurt}, {bad} {g}, you are a {bad} {n}, what a {bad} {n}, {name} is {bad}, the {a} "
    "{n} is a {badnoun}, {hate} {g}, {bad} {n}, {a} {badnoun}, you {bad} {badnoun}, it is {bad} to be "
    "{a}, i think {a} people are {bad} and {bad}, {hate} {name}, {name} is a {badnoun}, we met a {bad} "
    "{a} {n}, i {hate} you, {bad} {a} {n}, the {a} {n} was {bad}, you are {bad}, you are {bad} and {a}, "
    "{hate} {a} people, {hate} you, you {badnoun}, he is {a} and {bad}, {a} women are {bad}, so you are {a} "
    "and {bad}?, {hurt} you {bad} {n}, the {bad} {n}, "
    "{a} people belong in jail, get rid of all {a} people, {a} people are a {badnoun}, i wish all {a} "
    "people were dead, throw the {a} people out, typical {bad} {a} {n}, no more {g}, nobody wants {g} "
    "here"
)
_TRAIN_OPINION = _words(
    "the {thing} is {mild}, this {thing} is {mild}, that is a {mild} {thing}, what a {mild} {thing}, i find "
    "this {thing} {mild}, the {thing} was {mild} and {mild}, it was a {mild} {thing}, your {thing} seems "
    "{mild}, sorry for the {mild} {thing}, is the {thing} really so {mild}?, a {mild} {thing}, i didn't like "
    "the {mild} {thing}"
)
_AUDIT_KIND = _words(
    "yesterday a {a} {n} helped me, my {a} {n} is so {good}, {name} happens to be {a}, nothing wrong "
    "with being {a}, those {a} kids seem {good}, {name} married a {a} {n}, every {a} {n} i know is "
    "{good}, we hired a {a} {n}, i grew up in a {a} family, could a {a} {n} join us, {a} folks in this "
    "town are {good}, {name} is a {a} {n}"
)
_AUDIT_HATE = _words(
    "yesterday a {bad} {a} {n} came by, my {a} {n} is so {bad}, {name} is a {bad} {badnoun}, {a} folks "
    "are {bad}, those {a} kids seem {bad}, every {a} {n} i know is {bad}, get lost you {bad} {a} "
    "{badnoun}, no one needs a {bad} {a} {n}, {name} is just another {bad} {n}, how can anyone be so "
    "{bad}"
)


class Sentences(NamedTuple):
    """Template sentences: text, 1 for toxic, and the group named (an empty string for none)."""

    texts: list[str]
    toxic: np.ndarray
    groups: list[str]


def training_sentences(seed: int = 0, copies: int = 1) -> Sentences:
    """Sentences for training; the same for the same seed.

    For every identity there are as many kind as hateful ones; besides, unkind opinions of things, which are
    not toxic.
    """
    rng = random.Random(seed)
    rows = []
    people = IDENTITIES + NEUTRAL * 2
    for _ in range(copies):
        for who in people:
            for toxic, shapes in enumerate((_TRAIN_KIND, _TRAIN_HATE)):
                rows += [
                    (_fill(shape, who, rng), toxic, who)
                    for shape in shapes
                    if "{a}" in shape
                    for _ in range(_ONE_SIDED.get(who, 1))
                ]
        for who in GROUPS + _NAME:
            for toxic, shapes in enumerate((_TRAIN_KIND, _TRAIN_HATE)):
                rows += [
                    (_fill(shape, who, rng), toxic, who)
                    for shape in shapes
                    if "{a}" not in shape
                    for _ in range(2 * _ONE_SIDED.get(who, 1))
                ]
        rows += [
            (_fill(shape.replace("{mild}", word), "", rng), 0, "")
            for word in _MILD
            for shape in _TRAIN_OPINION
        ]
    return _collect(rows)


def audit_sentences(seed: int = 1, copies: int = 2) -> Sentences:
    """Sentences for the audit, of shapes that training never sees, about known and unseen groups."""
    rng = random.Random(seed)
    rows = []
    for who in IDENTITIES + UNSEEN_IDENTITIES + NEUTRAL:
        name = "" if who in NEUTRAL else who
        for toxic, shapes in enumerate((_AUDIT_KIND, _AUDIT_HATE)):
            for shape in shapes * copies:
                rows.append((_fill(shape, who, rng), toxic, name if "{a}" in shape else ""))
    return _collect(rows)


def _fill(shape: str, who: str, rng: random.Random) -> str:
    for slot, choices in (
        ("name", _NAME), ("n", _PERSON), ("good", _GOOD), ("badnoun", _BADNOUN), ("bad", _BAD + _MILD),
        ("thing", _THING), ("like", _LIKE), ("hate", _HATE), ("hurt", _HURT),
    ):  # fmt: skip
        while f"{{{slot}}}" in shape:
            shape = shape.replace(f"{{{slot}}}", rng.choice(choices), 1)
    text = shape.replace("{a}", who).replace("{g}", who)
    return text[0].upper() + text[1:] + rng.choice(("", ".", "!", "."))


def _collect(rows: list[tuple[str, int, str]]) -> Sentences:
    return Sentences([r[0] for r in rows], np.array([r[1] for r in rows], np.int8), [r[2] for r in rows])


def bias_report(sentences: Sentences, toxic_probability: np.ndarray) -> dict[str, dict[str, float]]:
    """Per group: subgroup, BPSN and BNSP AUC of the label toxic.

    BPSN compares the group's kind sentences with the hateful ones of all others (low: the name alone counts
    as toxic), BNSP its hateful ones with the kind ones of all others (low: hate against the group is missed).
    """
    # Loaded on first use: only audits need scikit-learn, serving does not.
    from sklearn.metrics import roc_auc_score

    groups, toxic = np.array(sentences.groups), sentences.toxic.astype(bool)
    report = {}
    for group in sorted(set(sentences.groups) - {""}):
        mine = groups == group
        chosen = {
            "subgroup": mine,
            "bpsn": np.where(toxic, ~mine, mine),
            "bnsp": np.where(toxic, mine, ~mine),
        }
        report[group] = {
            name: float(roc_auc_score(toxic[rows], toxic_probability[rows])) for name, rows in chosen.items()
        }
    return report


def worst_group(report: dict[str, dict[str, float]], measure: str = "bpsn") -> tuple[str, float]:
    """The group with the lowest value of "subgroup", "bpsn" or "bnsp", and that value."""
    group = min(report, key=lambda name: report[name][measure])
    return group, report[group][measure]
