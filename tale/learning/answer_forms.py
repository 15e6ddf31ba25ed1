"""How long answers of a form usually are: what words of a request tell before anything was learned. Tables only.

The figures are rough general knowledge in tokens, not measurements; what is learned corrects them. They matter while
there are few examples: 472 prompts cannot teach that a motto is short and a syllabus is long.
"""

from typing import Final

# Form of the answer: words that name it (the singular; phrases with "_"), by the tokens that such an answer takes.
FORM_TOKENS: Final[dict[int, str]] = {
    8: """name title category label synonym antonym rhyme acronym abbreviation word letter_grade number date capital
        sentiment rating score username hashtag emoji color colour spelling pronunciation genre topic intent entity
        yes_or_no true_or_false programming_language""",
    22: """motto slogan tagline headline caption regex regular_expression subject_line fortune one-liner formula
        expression phrase sentence keyword nickname domain command location year""",
    45: """quote quotation tweet compliment joke riddle pun haiku greeting bio definition status toast wish proverb
        fact insult equation translation question message reply text_message ascii_art""",
    90: """summary paraphrase paragraph limerick response answer description biography sonnet introduction
        advertisement ad post metaphor analogy review query""",
    220: """poem email e-mail letter list table recipe instruction note invitation conversation dialogue dialog rap
        song lyrics function example comparison pros_and_cons tip advice step testimonial playlist menu quiz schedule
        routine template""",
    420: """essay article blog story script plan itinerary report speech tutorial guide program code proposal
        cover_letter press_release resume strategy overview explanation analysis scene interview debate argument
        newsletter presentation outline monologue idea job_description suggestion recommendation component class
        application app website""",
    700: """syllabus curriculum novel chapter lesson_plan business_plan screenplay course paper thesis documentation
        game meal_plan workout_plan dissertation episode fan_fiction contract agreement policy""",
}

# How a sentence opens (regular expressions, the first that fits counts), and the tokens that its answer takes.
OPENING_TOKENS: Final[tuple[tuple[str, int], ...]] = (
    (
        r"what(?:'s| is| was) the (?:name|capital|population|date|time|year|number|word|term|chemical|tallest|largest"
        r"|biggest|smallest|longest|highest|oldest|first|last|most|distance|currency|height|answer|result|sum|output)",
        18,
    ),
    (r"who|whom|whose", 40),
    (r"when|what (?:year|day|time|date)", 35),
    (r"where", 60),
    (r"which", 70),
    (r"how (?:many|much|old|long|far|tall|big|often|fast|deep)", 70),
    (r"how do you (?:say|spell|pronounce)", 25),
    (r"how (?:do|can|to|should|would|could|did|does|is|are|has)", 360),
    (r"how", 280),
    (r"why", 300),
    (r"what (?:are|were) (?:some|the (?:best|main|top|different|key|benefits|advantages|pros|steps|most))", 360),
    (r"what are", 280),
    (r"what (?:would|should|can|could) (?:i|we|you|happen)", 260),
    (r"what (?:do|does|did)", 170),
    (r"what if", 250),
    (r"what(?:'s| is| was)", 180),
    (r"what", 150),
    (r"is|are|was|were|am", 110),
    (r"do|does|did|has|have|had|will|would|should", 130),
    (r"(?:can|could) (?:you|someone|anyone)", 280),
    (r"can|could", 150),
    (r"hi|hello|hey|thanks|thank you|good morning", 40),
    (r"explain|describe|discuss|elaborate|compare|analy[sz]e|outline|detail", 330),
    (r"tell|teach|show|help", 280),
    (
        r"classify|categori[sz]e|identify|determine|choose|select|pick|detect|extract|label|match|decide|predict|rate",
        60,
    ),
    (r"translate|rewrite|rephrase|paraphrase|correct|edit|fix|convert|capitali[sz]e|replace|change|transform", 70),
    (r"reverse|sort|unscramble|complete|fill|find", 70),
    (r"summari[sz]e", 90),
    (r"list|name|enumerate", 150),
    (r"solve|calculate|compute|evaluate|simplify|prove|add|count", 150),
    (r"give|provide|suggest|recommend|think|come up|brainstorm|propose", 200),
    (r"write|compose|create|generate|draft|make|design|develop|build|produce|craft|prepare|construct", 330),
    (r"act|imagine|pretend|assume|suppose|i want you", 260),
    (r"answer|read", 60),
    (r"i|i'm|my|we|our", 230),
)
UNKNOWN_TOKENS: Final = 180  # where nothing is told

# What a request speaks of or asks for: words and phrases ("_") that are counted.
CUES: Final[dict[str, str]] = {
    "write": "write compose draft create generate produce design develop make",
    "document": """essay article blog report speech letter email e-mail review script newsletter paper guide proposal
        plan itinerary lesson tutorial resume cover_letter press_release""",
    "story": """story poem song lyrics haiku dialogue scene novel tale fiction screenplay limerick rap sonnet roleplay
        role-play joke""",
    "list": "list enumerate example idea suggestion tip way step reason recommendation recommend suggest",
    "recipe": "recipe cook bake ingredient dish",
    "explain": """explain describe discuss elaborate analyze analyse compare contrast overview detail detailed
        comprehensive in_depth in-depth thorough thoroughly difference_between step_by_step step-by-step outline""",
    "long": "detailed comprehensive in_depth in-depth thorough thoroughly step_by_step step-by-step extensive complete",
    "short": """brief briefly short shortly concise concisely one_word single_word one_sentence a_sentence summary
        summarize summarise only just simply one-line tl;dr no_explanation simple""",
    "one_word": """one_word single_word one_sentence a_sentence yes_or_no true_or_false only_the only_output
        only_answer only_respond only_reply only_return answer_with one_of_the_following no_explanation""",
    "edit": """rewrite re-write rephrase paraphrase edit correct fix grammar proofread improve revise convert
        transform change replace reformat""",
    "translate": "translate translation in_french in_german in_spanish in_chinese in_japanese in_english in_italian",
    "classify": """classify classification sentiment categorize categorise category label identify determine rate
        score detect extract tag choose select pick positive_or_negative true_or_false predict decide
        which_of_the_following match""",
    "code": """code python javascript java c++ sql html css function script algorithm regex bash program api class
        json react query implement""",
    "mathematics": """solve equation calculate compute probability integer sum percent how_many triangle polynomial
        average evaluate simplify""",
    "table": "table csv markdown spreadsheet column json xml",
    "person": "i my me i'm im we our",
    "given": "given following based_on below provided above this",
    "title": """title headline name_for caption slogan tagline tweet subject_line keyword synonym antonym acronym
        word""",
    "fact": "capital population invented discovered born died year country president tallest largest first",
    "please": "please",
    "example": "example input output context question answer",
    "why": "why",
}

# Cues that say most in the instruction itself, apart from the material that follows it.
INSTRUCTION_CUES: Final = ("write", "edit", "classify", "explain", "list", "story", "document", "code", "short")

UNIT_TOKENS: Final[dict[str, float]] = {
    "word": 1.35, "sentence": 25, "paragraph": 110, "line": 14, "page": 600, "character": 0.25, "minute": 150,
}  # fmt: skip
NUMBERS: Final[dict[str, int]] = {
    "a": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "twenty": 20,
}  # fmt: skip
