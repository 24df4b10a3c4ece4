"""What the English rules know of words: first names, words that are no names, eponyms and the nouns that follow them.

Why it exists: capitals mark names in English, but also headings, drugs, months and half of medicine.

Rules:
    * General knowledge of the language, no list of people; a title or a label counts more than any list.
    * First names that are also words (May, Mark, Grace) are in `AMBIGUOUS` and need more evidence.

What it does not do: match anything; `names_en` and `places_en` do.
"""

from fedmed.deid.text.patterns import listed

FIRST_NAMES = frozenset(
    listed(
        "aaron abigail abraham adam adele adrian agnes aisha alan albert alberto alejandro alex alexander"
        " alexandra alexis alfred alice alicia alison allan allen allison alma alvin alyssa amanda amber amelia"
        " amy ana anderson andre andrea andrew andy angel angela angelica angie anita ann anna anne annette annie"
        " anthony antonio april arjun arlene armando arnold arthur ashley aubrey audrey austin ava barbara barry"
        " beatrice becky belinda benjamin bernard bernice bertha beth bethany betty beulah beverly bill billy"
        " blanche bob bobby bonnie brad bradley brandi brandon brandy brenda brent brett brian brianna bridget"
        " brittany brooke bruce bryan byron calvin camille carl carla carlos carmen carol caroline carolyn carrie"
        " casey cassandra catherine cathy cecil cecilia celia chad charlene charles charlie charlotte chelsea"
        " cheryl chester chloe chris christian christina christine christopher christy cindy claire clara clarence"
        " claude claudia clayton clifford clinton clyde cody colleen connie connor constance corey cory courtney"
        " craig cristina crystal curtis cynthia daisy dale dan dana daniel danielle danny darlene darrell darren"
        " darryl dave david dawn dean deanna debbie deborah debra delores denise dennis derek derrick desiree"
        " diana diane dianne dolores dominic don donald donna dora doreen doris dorothy doug douglas duane dustin"
        " dwayne dwight earl ebony eddie edgar edith edna eduardo edward edwin eileen elaine eleanor elena eli"
        " elijah elizabeth ella ellen elmer eloise elsie emily emma enrique eric erica erik erika erin ernest"
        " esther ethan ethel eugene eunice eva evan evelyn faith fatima felicia felix fernando florence floyd"
        " frances francis francisco frank franklin fred freda frederick gabriel gabriela gabrielle gail gary gene"
        " geneva george georgia gerald geraldine gerard gertrude gilbert gina ginger gladys glen glenda glenn"
        " gloria gordon grace greg gregory greta guadalupe gwen gwendolyn hannah hans harold harriet harry harvey"
        " hassan hazel heather hector heidi helen henrietta henry herbert herman hilda holly hope howard hugh hugo"
        " ian ida igor ines inez ingrid irene iris irma isaac isabel isabella isaiah ismael ivan jack jackie"
        " jackson jacob jacqueline jacquelyn jaime jake james jamie jan jane janet janice jared jasmine jason"
        " javier jay jean jeanette jeanne jeff jeffery jeffrey jenna jennie jennifer jenny jeremiah jeremy jerome"
        " jerry jesse jessica jessie jesus jill jim jimmie jimmy jo joan joann joanna joanne joe joel johanna john"
        " johnny jon jonathan jordan jorge jose joseph josephine joshua joy joyce juan juana juanita judith judy"
        " julia julian julie julio june justin kara karen karl karla kate katherine kathleen kathryn kathy katie"
        " katrina kay kayla keith kelly kelvin ken kendra kenneth kerry kevin kim kimberly kirk kirsten krista"
        " kristen kristin kristina kristy kurt kyle lance larry latasha latoya laura lauren laurie laverne"
        " lawrence leah lee leigh lena leo leon leona leonard leroy leslie lester leticia lewis liam lillian"
        " lillie linda lindsay lindsey lisa lloyd logan lois lola lonnie lora loretta lori lorraine louis louise"
        " lucas lucia lucille lucy luis luke lula luther lydia lyle lynda lynn mabel mable madison mae magdalena"
        " maggie malcolm mamie mandy manuel marc marcella marcia marcus margaret margarita margie marguerite maria"
        " marian marianne marie marilyn mario marion marisa marissa marjorie mark marlene marsha marshall martha"
        " martin marvin mary maryann mathew matt matthew mattie maureen maurice max maxine may megan mei melanie"
        " melinda melissa melody melvin mercedes mercy meredith michael micheal michele michelle miguel mike"
        " mildred milton mindy minnie miranda miriam misty mitchell mohamed mohammed moises molly monica monique"
        " morgan morris muhammad muriel myra myrtle nadia nadine nancy naomi natalie natasha nathan nathaniel neil"
        " nellie nelson nicholas nichole nick nicolas nicole nina noah noel nora norma norman olga olive oliver"
        " olivia omar opal ora oscar owen pablo paige pam pamela pat patricia patrick patsy patti patty paul paula"
        " paulette pauline pearl pedro peggy penny percy perry peter phil philip phillip phyllis priscilla priya"
        " rachael rachel rafael rajesh ralph ramon ramona randall randy raul ravi ray raymond rebecca regina"
        " reginald rene renee reuben rhonda ricardo richard rick ricky rita rob robert roberta roberto robin robyn"
        " rochelle rodney rodrigo roger roland roman ron ronald ronnie rosa rosalie rose rosemary rosie ross"
        " roxanne roy ruben ruby russell ruth ryan sabrina sadie sally salvador sam samantha samuel sandra sandy"
        " sanjay sara sarah saul savannah scott sean sebastian sergio seth shane shannon shari sharon shaun shawn"
        " sheila shelby shelley shelly sheri sherri sherry sheryl shirley sidney silvia simon sofia sonia sonya"
        " sophia sophie spencer stacey stacy stanley stella stephanie stephen steve steven stuart sue summer susan"
        " suzanne sven sylvia tabitha tamara tami tammy tanya tara tasha taylor ted terence teresa teri terri"
        " terry thelma theodore theresa thomas tiffany tim timothy tina todd tom tommy toni tony tonya tracey"
        " tracy travis trevor tricia tristan troy tyler tyrone valerie vanessa velma vera verna vernon veronica"
        " vicki vickie vicky victor victoria vincent viola violet virgil virginia vivian wade wallace walter wanda"
        " warren wayne wendell wendy wesley wilbur willard william willie wilma winifred xavier yolanda yvette"
        " yvonne zachary zoe"
    )
)

AMBIGUOUS = frozenset(
    listed(
        "acute amber angel april art austin back baker ball banks bell berry best bill bird black bond brandy"
        " brooklyn brown bush cancer carol carter case casey charlotte chase chelsea christian chronic cook cross"
        " crystal dale dallas dawn day dean don drew earl early east english faith field fields fisher florence"
        " foot fox french gene georgia german ginger good grace grant gray green hand hazel head heart hill holly"
        " hope houston hunt hunter iris israel jack jan jay jordan joy june kay lake lamb lance left little long"
        " love madison major marion mark mason max may melody mercy miller minor misty moon morgan normal north"
        " olive opal page park parker parks pat patty pearl penny porter power price ray regular rice rich rick"
        " right rivers rob robin roman rose ruby sally sandy santa savannah short small south stone strong sue"
        " summer victor violet virginia wade ward west white will winter wolf wood woods young"
    )
)

# Frequent surnames that are also words of notes: believed at the end of a name, where its context is sure.
SURNAME_WORDS = AMBIGUOUS | frozenset(
    listed(
        "barber bishop bone booth bowman branch bridges brooks burns butler carpenter chance church clay coffin cooper"
        " cotton crow english farmer fischer flowers ford forest foster frost gates golden graves hardy heath hood"
        " house judge key king knight law leach low marsh moss mills nurse pace peel penn pike pope post potts prince"
        " read reed sharp shepherd shields singer slaughter snow sparks spear stark stokes street"
        " swan sweet temple towns vance wall walls waters weaver weeks wells wise wright"
    )
)

# Words that begin with a capital in notes and are no part of a name.
NOT_NAMES = frozenset(
    listed(
        "a abdomen abdominal abnormal about above abuse accession account acid active acute address admission"
        " admit admitted admitting adult advance advised african after again age aged alert alive all allergic"
        " allergies allergy allowed also although ambulatory american an and anesthesia anesthesiologist"
        " anesthetist annual anterior antibiotics anxiety any aorta aortic apparent apparently appearance"
        " appointment approximately apr april are arrived artery as asian asked assess assessment assistant"
        " assistants assisted associated asthma at atrial attending aug august author authorization avenue await"
        " awake aware axis back background bacterial based be because bedside been before began being below better"
        " between bilateral biopsy birth black bladder bleeding blood body bone both boulevard bowel brain breast"
        " bring brother brought bsn but by bypass call called calm came can cancer cannot cardiac cardiologist"
        " cardiology cardiovascular care caregiver case cataract catheter caucasian cc ccc cell center central"
        " cervical changed chart check chest chief child childhood children chronic clear clinic clinical"
        " clinically closed closure code colleague colleagues colon colonoscopy come comments comorbidities complained"
        " complains complaint complaints complete complications conclusion condition congestive consent consult"
        " consultant consultation consulted consulting consults contact contacted continue continued control copd copy"
        " coronary cough could coumadin county course court critical crna ct culture current currently daily date"
        " dates daughter dds death dec december decided declined deep denied denies department dependent"
        " depression dermatology described describes description despite details developed diabetes diabetic"
        " diagnosed diagnoses diagnosis diagnostic diagram dialysis dictated did died diet digital discharge"
        " discharged discontinued discussed discussion disease disposition distal dmd do dob doctor doctors does"
        " doppler dose dpm dr drinks drive drove drs drug drugs due during dvm each ear ears eating ecg echo"
        " echocardiogram education eent effusion either ekg elderly electrolytes electronically elevated emergency"
        " emergent encounter encouraged end endocrine endoscopy ends enjoys entered episode er esophagus"
        " essentially estimated evaluated evaluation even every everything exam examination examined examiner"
        " examines exercise experienced explained extensive extremities extremity eye eyes facc face facility facs"
        " failed family father fax features feb february feels fell felt female fever few final finding findings"
        " first fluid follow followed following followup foot for former found fracture free friday friend"
        " from full function further gastric gastrointestinal gave gender general genitourinary gestational"
        " getting gi given gives glucose go goes going good got grade gravida grossly group growing gu guardian"
        " gyn gynecologic habits had hand has have having he he'll he's head health heart heent height hematology"
        " hemodynamically hemoglobin her here hers him hip his hispanic history holding home hospital hospitalist"
        " hospitalization hospitals hours how however hpi husband hypertension i icu identification identified if"
        " ii iii illness imaging immediately immunizations impression improve improved improving in incision"
        " including increase increased indicates indication indications infant infection infectious inferior"
        " informed initial initially injury inpatient instructed instructions insulin insurance intact intends"
        " intern internal intervention interview into intravenous investigator is issue it it's its iv jan january"
        " joint jr jul july jun june just keep kidney knee known lab laboratory labs lane lasix later lateral"
        " laterality latina latino lcsw left leg legal level lidocaine limb lipid lived liver lives living"
        " location looks lower lpn lumbar lung lungs lymph made mainly maintained makes male man manager mar march"
        " marital married mass maternal may md me mechanical medial medicaid medical medically medicare medication"
        " medications medicine meds mellitus memory mental mid middle might mild minimal mitral moderate monday"
        " mood more most mother motor moved mph mr mri mrn mrs ms much multiple muscle musculoskeletal must my"
        " name names nasal native neck need needed needs neg negative nerve neuro neurologic neurological"
        " neurologist neurology neurosurgery new newborn next night nka nkda no none nor normal nose not note"
        " noted notes nothing notified nov november now np number nurse nurses nursing ob objective obtained"
        " obviously occasional occasionally occupation oct october od of off office often ok old on once only"
        " onset open operating operation operative ophthalmology option or oral order ordered orders orthopaedic"
        " orthopedic orthopedics other otherwise our out outpatient over overall own oxygen pa pain painful"
        " palliative parent parents particularly passed past paternal pathologist pathology patient patient's"
        " patients pcp pediatric pediatrician pediatrics pelvic pelvis per perform performed performing perhaps"
        " person personal pharmacist pharmacy pharmd phd phone physical physician physicians place placed plan"
        " planned plans pleasant please pleural pmd pneumonia podiatry position positive possible posterior postop"
        " postoperative postoperatively pre preoperative preoperatively prepared prescribed prescription present"
        " presented presenting presently presents preserved pressure previous primary principal prior private prn"
        " probably problem problems procedure procedures proceed prof prognosis progress progressive prostate"
        " provided proximal psychiatric psychiatrist psychiatry psychological psychologist psychology pt pulmonary"
        " pulse put questioned questions race radiologist radiology ran rate reached reason received recent"
        " recently recommendation recommendations recommended record records rectal rectum referral referred"
        " referring refused regarding rehab rehabilitation related relationship religion renal repeat report"
        " reported reportedly reports representative requesting resident respirations respiratory response rest"
        " resulted results retired return returned revealed reveals review reviewed right risk risks rn road room"
        " routine said same saturday says school secondary see seems seen sees seizure sensory sent sep sept"
        " september serial service services several severe severity sex sexual she shortness should shoulder"
        " showed shown shows side sign signature signed significant signs since single sinus sister skin sleep"
        " slightly slp smoked smoker smokes smoking so social soft some son source speaks specialist specifically"
        " specimen spine spouse sr stable staff stage started state stated statement states stating status stays"
        " still stomach stopped street stress stroke student study subject subjective subsequently such suggest"
        " suite sunday superior supervising supine surgeon surgeons surgery surgical surgically sustained symptoms"
        " syndrome system systems take taken takes taking teacher technician technique technologist telephone tell"
        " tells temperature test tests than thank thanks that the their them then therapist therapy there"
        " therefore these they think this thoracic those thought throat through throughout thursday thus thyroid"
        " time tissue title to tobacco today tolerated tomorrow took total toward towards transcribed"
        " transcriptionist transfer transferred transplant trauma treated treating treatment trial tried tuesday"
        " tumor turned type ultrasound umbilical unable under undergoing understand understands underwent"
        " unfortunately unit unknown unremarkable until up upon upper urgent urinary urine urology us use used"
        " using usual usually uterus vaginal vascular vein venous ventricular verbal very veteran via view viral"
        " vision visit visits vital vitals voiced vs waiting walked walking want wants ward was way we wednesday"
        " week weight went were what when where which while white who whom why widowed wife will wishes wishing"
        " with within without witness woman wore work worked working works worse would wound writes x year years"
        " yes yesterday yo you young your zone"
    )
)

# People whose names are signs, diseases, tools and procedures now.
EPONYMS = frozenset(
    listed(
        "achilles addison adson allen allis alport alzheimer apgar aschoff asperger babcock babinski baker"
        " balthazar bankart barrett bartholin bartter basedow battle bazett becker beckwith behcet bell bence"
        " bennett berger bernoulli bigelow billroth bird bishop blalock bochdalek boerhaave bouchard bovie bowen"
        " bowman braden bragg brandt braxton broca brodie broviac brown brudzinski brugada buck budd buerger"
        " bunionectomy burch burkitt calot camper carnett castleman chagas charcot chiari child christmas chvostek"
        " clark clostridium cloward colles conn cooley coombs cooper corti courvoisier cowden cowper crohn cullen"
        " cushing dandy darier debakey dejerine denonvilliers doppler douglas down dressler duchenne dupuytren"
        " durand ebstein edwards ehlers eisenmenger epley epstein erb eustachian evans ewing fabry fallopian"
        " fallot fanconi felty fick filshie finkelstein fisher fitz foley fontan fournier fowler fredet freiberg"
        " french frey friedreich galeazzi gartland gaucher gigli gilbert gilles gilmore girdlestone glasgow"
        " gleason glenn glisson goodpasture gorlin gram graves guillain gustilo guyon hageman hallux hansen"
        " harrington harris hartmann hashimoto heberden hegar heimlich heller hemovac henle henoch hesselbach"
        " hickman hill hirschsprung hodgkin hoffa hoffman hoffmann holter homan homans hopkins horner hounsfield"
        " howell hunt huntington hurthle jackson janeway jobe jones kaposi karnofsky kartagener kawasaki kegel"
        " kelly kerley kernig kienbock killip kirschner klatskin klinefelter kocher korsakoff kussmaul lachman"
        " laennec lambert langer langerhans lasegue lauge lauren lembert leriche lester lewy lhermitte"
        " lichtenstein likert linton lisfranc lister ludloff ludwig luschka lyme mallampati mallory marfan"
        " marshall mattox maylard mayo maze mcbride mcburney mcdonald mcgill mcgrath mckenzie mcmurray mcvay"
        " meckel meigs menghini meniere merkel metzenbaum meyerding milroy mitrofanoff mohs monro montgomery"
        " morgagni morris morrison morton muller munchausen murphy nissen noonan norwood ober oddi ogilvie ollier"
        " osgood osler otis paget pancoast papanicolaou parkinson parks parona patrick penrose perthes peyer"
        " peyronie pfannenstiel phalen philadelphia pott potter prader pratt pringle prinzmetal quincke quinton"
        " ramsay ramstedt ranson raynaud reed reinke reiter rett reye reynolds richter rinne robinson romberg"
        " rorschach ross roux rovsing salter santa schatz schatzki schiotz schirmer schlatter schlemm schwann"
        " seldinger sengstaken seton sever sheehan sister sjogren skene smith snellen spence spetzler spurling"
        " stanford starling steinmann stensen stevens still stryker sturge swan sylvian syme tanner tenckhoff"
        " thomas thompson tietze tinel toupet tourette treitz trendelenburg trousseau turner unna valsalva vater"
        " veress virchow volkmann von waldenstrom wallenberg wassermann watson weber webril weck wegener weitlaner"
        " wenckebach werdnig wernicke wharton whipple white whitehead willebrand willis wilms wilson wolff wright"
        " yates zenker zimmer zollinger"
    )
)

# What follows an eponym: then it is no person.
CLINICAL_NOUNS = frozenset(
    listed(
        "agar ampulla anemia angina angle anomaly aphasia approach area arteritis artery arthroplasty asthma"
        " ataxia bag balloon bandage bed blade bodies body boot canal cannula capsule catheter catheters cautery"
        " cell cells chair chorea clamp clamps classification collar contracture cortex criteria criteria's curve"
        " cyst cysts dementia device device's diet disease disorder dissector drain drains dressing duct ducts"
        " dystrophy echocardiography effect electrocautery elevator encephalopathy equation esophagus exam"
        " examination fascia fever-tree filter flow forceps formula fossa fracture fractures frame fundoplication"
        " gait ganglion gangrene gauze gland glands grade grading graft granulomatosis hallucinations hernia hook"
        " hose implant incision index knife lactated laryngoscope law lens ligament line lines loop lymphoma"
        " malformation maneuver maneuvre manual mask medium membrane method monitor monitoring murmur nail needle"
        " needles nephropathy nerve neuroma neuroma's node nodes nodule nodules ointment osteotomy pacemaker palsy"
        " papilla phenomenon pin pins plate plates point port position pouch principle procedure prosthesis"
        " protocol pupil purpura pusher reflex reflexes repair retractor retractors ringers rod rods rongeur"
        " rongeurs rule sarcoma scale scan scissors score scores screw screws shunt sign signs sling sodium"
        " solution space speculum splint stage staging stain stapler stent stockings studies study suction suture"
        " sutures syndrome t-tube table tape taper technique tendinitis tendon tendonitis test testing tests"
        " tetralogy thyroiditis trach tremor triad trial trocar tube tubes tumor type ulcer ultrasonography"
        " ultrasound vacuum valve vein walker wire wires"
    )
)

# Unions and differences are made once: made anew for each word of a note, they would cost more than all else.
CLEAR_FIRST_NAMES = FIRST_NAMES - AMBIGUOUS
CLEAR_NOT_NAMES = NOT_NAMES - AMBIGUOUS
WORDS_NOT_FIRST = AMBIGUOUS - FIRST_NAMES
WORDS_AND_FIRST = AMBIGUOUS & FIRST_NAMES
WORDS_AND_EPONYMS = AMBIGUOUS | EPONYMS
NO_PLACES = NOT_NAMES | CLINICAL_NOUNS
