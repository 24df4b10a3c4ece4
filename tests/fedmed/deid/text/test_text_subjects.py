"""English names that a verb of people, a signature, a form or the way of writing tells."""

import pytest

from fedmed.deid.text import NoteCleaner


@pytest.mark.parametrize(
    ("note", "name"),
    [
        ("HPI: Cough for two days. Ysolde denies fever, rigors or weight loss.", "Ysolde"),
        ("14:20 Vroonhof refused the evening dose, family told.", "Vroonhof"),
        ("Plan: home tomorrow.\nThackrayson, Imogen was told to rest at home.", "Thackrayson, Imogen"),
        ("Wound clean and dry today, no drainage seen.\n-- Quenby T. Oduya 12/04/2021", "Quenby T. Oduya"),
        ("Thank you for this referral, we will keep you posted.\nSincerely,\nPerpetua Lanzmann\n", "Perpetua Lanzmann"),
        ("Attending Physician Quenby Oduya\nRoom 12, diet as tolerated, no allergies known", "Quenby Oduya"),
        ("Results were telephoned to Quenby Oduya at noon; the slide was read by P. Lanzmann.", "P. Lanzmann"),
        ("The findings were discussed with Dr.\nImogen Thackrayson on the ward.", "Imogen Thackrayson"),
        ("Seen with Dr. Tariq al-Rashidi in clinic; chest is clear now.", "Tariq al-Rashidi"),
        ("Dictated by Ysolde van der Plas, M.D., for the service of the day.", "Ysolde van der Plas"),
        ("Patient Name: Vroonhof,\nYsolde\nRoom: 7\nDiet: regular, no restrictions", "Vroonhof,\nYsolde"),
        ("The scan was read by Imogen Law. No acute findings were seen.", "Imogen Law"),
        ("Attending: Quenby Oduya Jr. Mr. Oduya Jr. walked to the door.", "Oduya Jr."),
        ("Next of kin Perpetua A Lanzmann, phone given; wife Perpetua A Lanzmann agrees.", "Perpetua A Lanzmann"),
    ],
)
def test_names_in_their_contexts(cleaner: NoteCleaner, note: str, name: str) -> None:
    """Every letter of the name is masked, in each of the ways in which notes announce a person."""
    spans = [span for span in cleaner.clean(note, patient="p").spans if span.kind == "NAME"]
    start = note.rindex(name)
    assert any(span.start <= start and span.end >= start + len(name) for span in spans), spans


@pytest.mark.parametrize("write", [str.upper, str.lower])
@pytest.mark.parametrize(
    ("note", "name"),
    [
        ("patient seen today. his mother, ysolde vroonhof, can be reached at home after five", "ysolde vroonhof"),
        ("wound dry, no drainage, will see in two weeks\n-- quenby oduya 12/04/2021", "quenby oduya"),
        ("the film of this morning was read by p. lanzmann. no acute change was seen", "lanzmann"),
        (
            "name: imogen thackrayson. accompanied by imogen q thackrayson today, no acute change seen",
            "imogen q thackrayson",
        ),
        ("please consult imogen thackrayson (cardiology) and repeat the tracing in the morning", "imogen thackrayson"),
    ],
)
def test_names_where_capitals_tell_nothing(cleaner: NoteCleaner, note: str, name: str, write: object) -> None:
    """Notes in capitals or small letters throughout lose their names in the contexts that are sure."""
    written, start = write(note), note.index(name)  # type: ignore[operator]
    spans = cleaner.clean(written, patient="p").spans
    assert any(span.start <= start and span.end >= start + len(name) for span in spans), spans


@pytest.mark.parametrize(
    "note",
    [
        "Lisinopril was discontinued. Metoprolol was given. Currently denies pain. Mom reports a rash.",
        "Rheumatology felt that this was reactive. Neonatal Endocrinology agrees. PMI felt in the fifth space.",
        "Staff understands and agrees.",
        "The patient will remain on therapy, and the patient may require more.",
        "Dear Colleague: thank you for your help. Follow up with Cardiology Clinic tomorrow.",
        "Surgeon Preference Card reviewed. Attending Physician Note follows. Signed Consent Form on chart.",
    ],
)
def test_words_that_are_no_names_stay(cleaner: NoteCleaner, note: str) -> None:
    """Drugs, services, relatives without a name and headings stay, also beside verbs of people and labels."""
    assert cleaner.clean(note, patient="p").text == note
    assert cleaner.clean(note.lower(), patient="p").text == note.lower()
