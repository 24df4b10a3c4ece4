"""Sentences of English notes: slots in braces, clinical decoys in double brackets.

Why it exists: what a note says is kept apart from how it is put together.

Rules:
    * One template per line; a slot is one of those that `stage.Stage` fills.
    * Whatever in a template identifies a person is a slot. Decoys are eponyms, drugs, words that are also names
      (May, Will), doses, values, scores and codes.

What it does not do: describe one coherent illness.
"""

from collections.abc import Mapping, Sequence

from fedmed_sim.phantoms.markup import Section, templates

LABELS: Mapping[str, tuple[str, ...]] = {
    "patient": ("Patient", "Name", "Patient Name", "Pt", "PATIENT NAME", "Re"),
    "sex": ("Sex", "Gender"),
    "age": ("Age",),
    "birth": ("DOB", "Date of Birth", "Born", "D.O.B.", "Birth date"),
    "rid_any": ("SSN", "Social Security No", "SSN#", "Soc. Sec. number"),
    "phone": ("Phone", "Tel", "Cell", "Home phone", "Contact number"),
    "address": ("Address", "Home address", "Residence"),
    "record": ("MRN", "Medical Record Number", "MR#", "Record No", "Hospital number", "Unit No"),
    "outpatient": ("Accession", "Accession #", "Case number", "Visit ID", "Specimen No"),
    "insurance": ("Insurance ID", "Policy number", "Member ID", "Health plan no"),
    "relative": ("Next of kin", "Emergency contact", "Informant", "Contact person"),
    "kin_phone": ("Contact phone", "Next of kin phone"),
    "date": ("Date", "Admission Date", "Date of service", "Visit", "Date of exam", "Dictated", "DOS"),
    "doctor": ("Attending", "Physician", "Provider", "Referring physician", "PCP", "Surgeon"),
    "hospital": ("Facility", "Hospital", "Location", "Referred from"),
    "city": ("Birthplace", "City"),
    "ward": ("Service", "Unit", "Department"),
    "bed": ("Bed", "Room"),
    "email": ("Email", "E-mail"),
    "work": ("Occupation",),
}

BANKS: Mapping[str, Sequence[str]] = {
    "opening": templates("""
        {patient} is a {age}-year-old {sex} admitted on {date} with {complaint}.
        {salutation} {patient_family} is a {age} year old {sex} from {city} who presents with {complaint}.
        This {age} y/o {sex}, {patient}, was transferred from {other_hospital} on {date} for {complaint}.
        I had the pleasure of seeing {patient} on {date} at {hospital} for {complaint}.
        Patient: {patient}, {age} yo {sex}, MRN {record}, here for {complaint}.
        Pt {patient_given} {patient_family} seen {date} in clinic; accompanied by {kin} {relative}.
        {age}-year-old {sex} with {complaint}, brought in by {kin}, {relative}, phone {kin_phone}.
    """),
    "history": templates("""
        Symptoms began on {past} after lifting; she took [[ibuprofen]] [[400 mg]] with little relief.
        On {recent} {salutation} {patient_family} noticed worsening {complaint} and called the office.
        Seen at {other_hospital} by Dr. {doctor2} on {past}; CT of the abdomen was unremarkable.
        Known [[Crohn's disease]] and [[Parkinson]] disease on [[Sinemet]] [[25/100]] three times a day.
        {patient_given} denies [[chills]], [[night sweats]] or weight loss. She [[may]] have had a fever of {temp}.
        According to {kin} {relative}, the patient fell on {recent} and struck the left hip.
        [[Will]] need repeat imaging. [[May]] resume [[Coumadin]] [[2.5 mg]] tonight if [[INR]] [[2.1]].
        Has been on [[lisinopril]] [[10 mg]] daily since {past}, [[metoprolol]] [[25 mg]] [[BID]].
        History of [[Hodgkin]] lymphoma diagnosed {past}, treated with [[ABVD]] x [[6]] at {other_hospital}.
        Old chart ({outpatient}) reviewed; [[Bell's palsy]] resolved, [[Graves]] disease in remission.
        Was discharged from {other_hospital} on {past} under the care of {doctor2}, MD.
        The patient's {kin} {relative} can be reached at {kin_phone} or {email}.
        He reports pain [[7/10]], worse at night, [[5/5]] strength, [[24/7]] care at home.
    """),
    "past_history": templates("""
        Hypertension, [[Raynaud]] phenomenon, [[Barrett's esophagus]], [[Wolff-Parkinson-White]].
        Appendectomy at {other_hospital} on {past_year}; [[Foley]] catheter at that time.
        Allergic to [[penicillin]] and [[sulfa]]; [[Epi-Pen]] at home.
        [[Hashimoto]] thyroiditis on [[Synthroid]] [[88 mcg]]; [[Addison]] disease excluded.
        Total knee by Dr. {doctor3} on {past}, device model [[5076-52]], size [[9]].
        Smokes [[1/2]] ppd for [[30 years]]; [[Ensure Plus]] with meals.
        Member ID {insurance}; last visit {past} with {doctor2}.
        {kin} {relative} has [[Huntington]] disease; [[Marfan]] habitus not seen.
        Immunizations: [[Prevnar 13]], [[Tdap]], [[influenza]] given {past}.
    """),
    "exam": templates("""
        BP {bp}, HR {pulse}, T {temp}, RR [[18]], O2 sat [[97%]] on [[2 L]].
        [[Babinski]] negative, [[Romberg]] negative, strength [[5/5]] throughout, reflexes [[2+]].
        [[Murphy]] sign negative, [[McBurney]] point tender, [[Rovsing]] absent.
        {salutation} {patient_family} is alert, [[A&O x3]], [[GCS]] [[15]], pleasant.
        Lungs clear, no [[Kussmaul]] breathing; [[S1/S2]] normal, grade [[2/6]] murmur at the apex.
        [[Foley]] draining clear urine, [[Jackson-Pratt]] drain [[40 cc]], [[Penrose]] removed.
        [[Tinel]] and [[Phalen]] positive on the right; [[Dupuytren]] cord in the [[4th]] ray.
        Skin: [[Kaposi]]-like lesions absent, [[Wood]] lamp negative, [[Rose]] spots none.
    """),
    "labs": templates("""
        Labs {recent}: WBC {lab}, [[Hgb 12.1]], [[Plt 210]], [[Cr 1.02]], [[K 4.1]].
        [[Gram]] stain negative, [[Coombs]] negative, [[Apgar]] [[8/9]], [[troponin]] [[<0.01]].
        Echo on {recent} showed EF [[55%]], [[Doppler]] normal, [[Fick]] output {lab}.
        CT (accession {outpatient}, {recent}): nodule {size} in the right upper lobe.
        Assessment codes {icd}, [[NYHA III]], [[T2N1M0]], [[Gleason 3+4]], [[Breslow]] [[0.8 mm]].
        [[Giemsa]] and [[Ziehl-Neelsen]] stains negative; [[CA 19-9]] [[37]], [[CD4]] [[350]].
        MRI of [[L4/5]] and [[L5-S1]] dated {past} reviewed with {doctor2}.
    """),
    "plan": templates("""
        Discussed with Dr. {surname}, who agrees; [[will]] start [[heparin]] [[5000 units]] [[q8h]].
        Follow up with {doctor} on {next}; call {phone} with results.
        Consult {doctor2} (cardiology) and repeat [[ECG]] [[in the a.m.]]
        {patient} and {kin} {relative} understand and agree with the plan.
        Continue [[aspirin]] [[81 mg]], [[Lasix]] [[40 mg]] IV [[BID]], [[Miralax]] [[17 g]].
        Scheduled for surgery on {next} at {hospital} with {doctor3}.
        Please send records to {email} or see {url} for images.
        [[Grant]] day pass; [[march]] in place twice daily; [[mark]] the site; [[bill]] pending.
        Spoke with {relative} at {kin_phone}; [[hope]] for discharge soon, [[chase]] cultures.
        Wean [[Levophed]], [[Swan-Ganz]] out, [[Allen]] test before arterial line, [[Hickman]] care.
    """),
    "nursing": templates("""
        {clock} {patient_given} resting quietly, [[Braden]] [[18]], [[Morse]] [[45]], call light in reach.
        {clock} Report given to {nurse}, RN; [[Tylenol]] [[650 mg]] given for T {temp}.
        {clock} {kin} {relative} at bedside, number {kin_phone} on the board.
        {clock} Dr. {surname} notified of BP {bp}; no new orders.
        Two-person check with {nurse} and {nurse2}: MRN {record}, DOB {birth}.
        {salutation} {patient_family} ambulated [[50 ft]] x [[2]]; [[Ensure]] taken; voided [[300 cc]].
        {clock} wound care done, [[Kerlix]] and [[Montgomery]] straps; pain [[3/10]].
    """),
    "operation": templates("""
        Surgeon: {doctor}. Assistant: {doctor2}. Anesthesia: {doctor3}, MD. Date: {date}.
        {salutation} {patient_family} was taken to the operating room on {date} and placed supine.
        A [[Pfannenstiel]] incision was made; [[Bovie]] cautery and [[Kelly]] clamps were used.
        Closed with [[3-0]] [[Vicryl]] and [[4-0]] [[Monocryl]]; [[Steri-Strips]] applied.
        Estimated blood loss [[150 ml]]; [[Kocher]] and [[Allis]] removed; [[Whipple]] not required.
        Specimen ({outpatient}) measuring {size} sent to pathology at {other_hospital}.
        [[Trendelenburg]] position, [[Hasson]] trocar [[10 mm]], [[Veress]] needle.
        Family member {relative} was told the result in person by Dr. {surname}.
    """),
    "imaging": templates("""
        Comparison: {past} (accession {outpatient}), read by {doctor2}.
        Liver normal. Cyst of {size} in segment [[6]], [[12 HU]], [[Bosniak]] [[II]].
        [[T2-weighted]] signal is high; [[Schmorl]] node at [[L3]]; [[Tarlov]] cyst at [[S2]].
        [[Colles]] fracture with [[15 degrees]] of angulation; [[Smith]] fracture excluded.
        [[Hounsfield]] units [[45]]; [[Baker]] cyst; [[Hill-Sachs]] lesion; [[Morton]] neuroma.
        Findings were telephoned to Dr. {surname} on {date} at {clock}.
        [[BI-RADS]] [[4a]], [[TI-RADS]] [[3]], [[Kellgren-Lawrence]] grade [[2]].
    """),
    "pathology": templates("""
        Gross: received from {hospital} a tan fragment of {size} in formalin, labelled {patient}.
        [[Congo red]] negative; [[Masson]] trichrome positive; [[Reed-Sternberg]] cells not seen.
        Submitted by {doctor} on {date}; signed out by {doctor2}, [[Nottingham]] grade [[2]].
        Prior material {outpatient} from {other_hospital} ({past}) was reviewed.
        [[Ki-67]] [[60%]], [[HER2]] [[1+]], [[p53]] wild type, [[Clark]] level [[IV]], code {icd}.
    """),
    "closing": templates("""
        Discharged {date} in good condition; follow up {next} with {doctor}, phone {phone}.
        She lives at {address} and can be reached at {phone}.
        Thank you for referring {salutation} {patient_family}; do call me at {phone2}.
        Results at {url}; questions to {email}.
        {patient} was told to return to {hospital} if [[fever]] or [[chills]] recur, code {icd}.
        cc: {doctor2}, MD; {doctor3}, DO
        SSN on file {rid_any}; next of kin {relative}, {kin_phone}.
    """),
}

KINDS_EN: Mapping[str, tuple[Section, ...]] = {
    "admission": (
        Section(headings=("", "CHIEF COMPLAINT", "Reason for admission"), bank="opening", low=1, high=1),
        Section(headings=("HPI", "History of Present Illness", ""), bank="history", low=2, high=4),
        Section(headings=("PMH", "Past Medical History", ""), bank="past_history", low=1, high=3),
        Section(headings=("Physical Exam", "EXAM", "O"), bank="exam", low=1, high=3),
        Section(headings=("LABS", "Data", ""), bank="labs", low=1, high=2),
        Section(headings=("Plan", "Assessment and Plan", "A/P"), bank="plan", low=1, high=3),
    ),
    "progress": (
        Section(headings=("", "S", "Interval history"), bank="history", low=1, high=2),
        Section(headings=("", "O", "Exam"), bank="exam", low=1, high=2),
        Section(headings=("", "Results"), bank="labs", low=1, high=1),
        Section(headings=("", "P", "Plan"), bank="plan", low=1, high=3),
    ),
    "discharge": (
        Section(headings=("Admission", ""), bank="opening", low=1, high=1),
        Section(headings=("HOSPITAL COURSE", "Course"), bank="history", low=2, high=3),
        Section(headings=("Pertinent results", ""), bank="labs", low=1, high=2),
        Section(headings=("Disposition", "Instructions", ""), bank="closing", low=1, high=3),
    ),
    "radiology": (
        Section(headings=("INDICATION", "Clinical information", ""), bank="history", low=0, high=1),
        Section(headings=("FINDINGS", "Findings"), bank="imaging", low=2, high=4),
        Section(headings=("IMPRESSION", "Conclusion"), bank="labs", low=1, high=1),
    ),
    "operation": (
        Section(headings=("OPERATIVE REPORT", "Procedure", ""), bank="operation", low=3, high=5),
        Section(headings=("Postoperative plan", ""), bank="plan", low=1, high=2),
    ),
    "referral": (
        Section(headings=("", "Dear colleague"), bank="opening", low=1, high=1),
        Section(headings=("", "Background"), bank="history", low=1, high=2),
        Section(headings=("", "Past history"), bank="past_history", low=1, high=2),
        Section(headings=("",), bank="closing", low=1, high=2),
    ),
    "nursing": (
        Section(headings=("NURSING NOTE", "", "Shift report"), bank="nursing", low=2, high=5),
        Section(headings=("", "Vitals"), bank="exam", low=0, high=1),
    ),
    "pathology": (
        Section(headings=("SPECIMEN", "", "Surgical pathology report"), bank="pathology", low=2, high=4),
        Section(headings=("DIAGNOSIS", ""), bank="labs", low=1, high=1),
    ),
}

SIGNATURES: Sequence[str] = templates("""
    Electronically signed by {doctor}, MD on {date} at {clock}
    {doctor}, M.D.
    Dictated by: {doctor}  D: {date}  T: {next}
    Sincerely, {doctor2}
    RN: {nurse}
    Signed: {doctor2}, DO, {hospital}, {date}
    Attending: Dr. {surname}
    -- {doctor} {date}
""")

COMPLAINTS = (
    "shortness of breath",
    "chest pain for two hours",
    "abdominal pain and vomiting",
    "left-sided weakness",
    "a neck mass",
    "rectal bleeding",
    "hip pain after a fall",
    "palpitations",
    "blurred vision",
    "fever and cough",
)
KIN = ("daughter", "son", "wife", "husband", "mother", "father", "sister", "brother", "partner", "niece")
WARDS = ("Cardiology", "General Surgery", "Neurology", "ICU", "Medicine", "Oncology", "4 West", "ED")
