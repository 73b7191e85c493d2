import pytest

from ilpjax.conflicts.questions import Names, is_open, same_question, unshared

TEXTS = ["We met in Germany last year.", "They live in France now.", "Ask the inside man.", "in the middle of summer"]


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        ("What is the capital of France?", "Which city is France's capital?", True),
        ("What is the capital of France?", "What is the capital of Germany?", False),
        ("what is the capital of france", "what is the capital of germany", False),  # names elsewhere in these texts
        ("What genre is Being There?", "What genre is Inside?", False),  # written as names, whatever they are elsewhere
        ("What is the capital of France?", "What is the capital of France, the country?", True),
        ("What is 12 times 7?", "What is 12 times 8?", False),
        ("How many are two dozen?", "How many are 2 dozen?", True),
        ("Which metal is liquid?", "Which metal is not liquid?", False),
        ("Is it true?", "Is it true, yes or no?", True),
        ("Isn't it hot?", "Is it hot?", False),
        ("When was Kos born?", "Where was Kos born?", False),
        ("When was Kos born?", "In what year was Kos born?", True),
        ("Who wrote it?", "Which person wrote it?", True),
        ("How many legs has it?", "How long are the legs?", False),
        ("Are lenders obliged to tell?", "Why are lenders obliged to tell?", False),
        ("Can you breed them?", "Please tell me, can you breed them?", True),
        ("Which is the largest?", "Which is the smallest?", False),
        ("Who was the director of it?", "Who was the author of it?", False),
        ("What voice has she?", "What kind of voice does she have?", True),
    ],
)
def test_what_a_sentence_encoder_hardly_sees(one, two, same):
    names = Names([*TEXTS, one, two])
    assert same_question(one, two, names) is same is same_question(two, one, names)


def test_a_title_is_no_row_of_names():
    assert Names([])("What Is The Best Way To Learn") == set()
    assert Names([])("We saw Anna's house") == {"anna"}


@pytest.mark.parametrize(
    ("prompt", "open_"),
    [
        ("Write a poem about the sea.", True),
        ("Please suggest a name for a cat.", True),
        ("Name three primary colours.", True),
        ("Here is a text. Summarise it.", True),
        ("Give an example of a metal.", True),
        ("Name the largest planet.", False),
        ("Which programming language was used to write it?", False),
        ("Is it possible to create mass from energy?", False),
        ("In what work do you find a character called Gino?", False),
    ],
)
def test_requests_that_many_answers_satisfy(prompt, open_):
    assert is_open(prompt) is open_


def test_what_two_prompts_say_beside_their_common_lines():
    assert unshared("passage\nWho?", "passage\n Where? ") == ("Who?", "Where?")
    assert unshared("passage\nWho?", "other\nWho?") == ("passage", "other")
    assert unshared("Who?", "Who?") is None and unshared("a", "b") is None and unshared("a\nb", "a") is None
