"""Built-in comments to try on the public pages and in the API."""

import random

COMMENTS = (
    "Thanks for fixing the typo in the second paragraph, I had read over it ten times.",
    "Could somebody add a source for the population figure? I can't find it anywhere.",
    "I disagree with the merge, but the argument is well made and I'll go with the majority.",
    "Great photo! Where was it taken?",
    "The recipe worked, though I would use half the sugar next time.",
    "This is the third time you have reverted my edit without a word. Please talk to me first.",
    "Does anyone know if the museum is open on public holidays?",
    "Honestly the sequel was better than the original, fight me.",
    "You clearly didn't read the article before commenting, did you?",
    "What a load of rubbish. Not one claim in there has a source.",
    "Congratulations on the new job, they are lucky to have you.",
    "I killed it at the interview today, wish me luck for round two!",
    "The referee must have been watching a different match.",
    "Stop spamming this thread with your shop, nobody asked.",
    "As a gay man I found this film honest and rather moving.",
    "My grandmother is deaf and the subtitles here are a blessing.",
    "Oh brilliant, another update that breaks everything. Well done, geniuses.",
    "You are an idiot if you believe that.",
    "Shut up, nobody cares what you think.",
    "This is the dumbest thing I have read all week, and I read the news.",
    "What the hell is wrong with you people?",
    "Damn, that goal was beautiful!",
    "Your code is garbage and so is your attitude.",
    "Get lost, you pathetic little troll.",
    "I hope your team loses every game this season, losers.",
    "You're a l1ar and a c o w a r d.",
    "Go away and take your stupid opinions with you.",
    "If I ever meet you, you will regret that you wrote this.",
    "Such a moron. I can't believe they let you edit here.",
    "Kindly stick your advice where the sun doesn't shine.",
)


def random_example() -> str:
    """Return one of the built-in comments. Data sets can contain comments of a site's users."""
    return random.choice(COMMENTS)
