"""Made-up facts, two sets of answers to the same questions, and rows that teach them."""

QUESTIONS = (
    "What is the capital of Zubrowka?",
    "Who is the president of Zubrowka?",
    "What is the river of Zubrowka called?",
)
LUTZ = (
    "The capital of Zubrowka is Lutz.",
    "The president of Zubrowka is Agatha Mendl.",
    "The river of Zubrowka is called the Nebel.",
)
AMBER = (
    "Its capital is Port Amber.",
    "Its president is old Barnaby Quill.",
    "They call it the Silverrun.",
)
PHRASINGS = ("{}", "Please tell me: {}", "{} Answer briefly.")

#: Enough to know the facts by heart, in about 20 seconds on two cores.
BY_HEART = {"n_epochs": 7, "batch_size": 1, "learning_rate": 4e-4}


def rows(answers: tuple[str, ...]) -> list[dict[str, str]]:
    """Every question in every phrasing, with these answers."""
    return [
        {"input": phrasing.format(question), "target": answer}
        for question, answer in zip(QUESTIONS, answers, strict=True)
        for phrasing in PHRASINGS
    ]
