"""One person has one placeholder in a note, and a placeholder tells nothing but the role."""

import pytest

from fedmed.deid.text import NoteCleaner


@pytest.mark.parametrize(
    ("note", "expected"),
    [
        (
            "患者郎月笙，男。今日裴旻主任医师查房，裴主任指示，郎月笙诉痛。家属郎小满签字。住院医师：聂闻笛",
            (
                "患者[患者姓名]，男。今日[医生姓名]主任医师查房，[医生姓名]主任指示，[患者姓名]诉痛。家属[家属姓名]"
                "签字。住院医师：[医生姓名2]"
            ),
        ),
        (
            (
                "Patient: Ysolde Vroonhof. Dr. Imogen Thackrayson met Mrs. Vroonhof; Dr. Thackrayson and Dr. "
                "Pellingham agreed."
            ),
            (
                "Patient: [PATIENT NAME]. Dr. [DOCTOR NAME] met Mrs. [PATIENT NAME]; Dr. [DOCTOR NAME] and Dr. "
                "[DOCTOR NAME 2] agreed."
            ),
        ),
    ],
)
def test_one_person_one_placeholder(cleaner: NoteCleaner, note: str, expected: str) -> None:
    """Full name, surname with a title and repetitions are one person; a second doctor is another."""
    assert cleaner.clean(note, patient="p").text == expected


def test_doctor_of_the_same_surname_is_another(cleaner: NoteCleaner) -> None:
    """A doctor's surname alone is not taken for the patient."""
    text = cleaner.clean("患者裴月笙，女。裴医生查房。", patient="p").text
    assert text == "患者[患者姓名]，女。[医生姓名]医生查房。"


def test_earlier_placeholders_keep_their_numbers(cleaner: NoteCleaner) -> None:
    """A note in which a placeholder stands already gets the next number for another person."""
    text = cleaner.clean("[医生姓名]主任查房。请聂闻笛主任会诊。", patient="p").text
    assert text == "[医生姓名]主任查房。请[医生姓名2]主任会诊。"


def test_language_of_the_note_decides(cleaner: NoteCleaner) -> None:
    """A note has the placeholders of one language, whichever its names are in."""
    text = cleaner.clean("患者郎月笙于外院行手术，主刀为Dr. Imogen Thackrayson，术后恢复可。", patient="p").text
    assert text == "患者[患者姓名]于外院行手术，主刀为Dr. [医生姓名]，术后恢复可。"
