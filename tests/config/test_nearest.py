"""Did you mean ...?"""

from ablab.config.nearest import nearest


def test_the_nearest_name_and_all_of_them_sorted() -> None:
    assert nearest("ful", ["windowed", "full", "lsh"]) == "; did you mean 'full'? (there are: full, lsh, windowed)"


def test_nothing_is_guessed_where_nothing_is_near() -> None:
    assert nearest("nope", ["windowed", "full"]) == " (there are: full, windowed)"


def test_a_thing_without_names_says_so() -> None:
    assert nearest("foo", []) == " (it has none)"
