"""The fifteen tasks of SAPT's SuperNI benchmark: their definitions, kinds, labels, and what of a text may be cut.

The definitions are those of Super-NaturalInstructions (github.com/allenai/natural-instructions, Apache 2.0), byte for
byte. Every task is scored by ROUGE-L, those with labels too, as SAPT does (Zhao et al. 2024, ACL). Its prompt ends in a
blank, ours does not: a causal model's answer begins with that blank.
"""

from __future__ import annotations

from dataclasses import dataclass

from gorp.tasks.prompts import NOTHING, WHOLE_TEXT
from gorp.tasks.task import Metric

METRIC: Metric = "rouge_l"
TEXT_CUE, ANSWER_CUE = "Input: ", "Output:"

#: Of a dialogue, what may be cut: all but its last turns (400 characters), which the answer must fit.
BUT_THE_END = r"(?s)(.*).{400}"


@dataclass(frozen=True)
class Definition:
    """What a task asks for, its kind, the answers there are (none: free ones), and what of its texts may be cut."""

    text: str
    kind: str
    labels: tuple[str, ...] = ()
    passage: str = WHOLE_TEXT

    @property
    def instruction(self) -> str:
        """What the prompt begins with."""
        return f"Definition: {self.text}\n\nNow complete the following example -\n"


DEFINITIONS: dict[str, Definition] = {
    "task002_quoref_answer_generation": Definition(
        "In this task, you're expected to write answers to questions involving multiple references to "
        "the same entity. The answer to the question should be unambiguous and a phrase in the "
        "paragraph. Most questions can have only one correct answer.",
        kind="question answering",
        passage=r"(?s)Passage: (.*)\nQuestion: .*",
    ),
    "task073_commonsenseqa_answer_generation": Definition(
        'You are given a question and some answer options (associated with "A", "B", "C", "D"). You '
        "should choose the correct answer based on commonsense knowledge. Avoid answering questions "
        "based on associations, the set of answers are chosen deliberately to capture common sense "
        "beyond associations. Do not generate anything else apart from one of the following characters: "
        "'A', 'B, 'C', 'D', 'E' and only give one answer for each question.",
        kind="question answering",
        labels=("A", "B", "C", "D", "E"),
        passage=NOTHING,
    ),
    "task1290_xsum_summarization": Definition(
        "In this task, you are given an article. Your task is to summarize the article in a sentence.",
        kind="summarization",
    ),
    "task1510_evalution_relation_extraction": Definition(
        "Given a phrase describing the relationship between two words, extract the words and the lexical"
        " relationship between them. The relation has to be of the type 'MemberOf', 'MadeOf', 'Synonym',"
        " 'Entails', 'HasA', 'HasProperty', 'PartOf', 'Antonym' or 'IsA'. The output should have the "
        "format: word1 relation word2.",
        kind="information extraction",
        passage=NOTHING,
    ),
    "task1572_samsum_summary": Definition(
        "In this task, you are given a conversation, and your task is to generate a summary from the "
        "information present in the given conversation. Generate a summary in such a way that the "
        "context should be present in the conversation. It should cover the complete context of the "
        "conversation.",
        kind="summarization",
    ),
    "task1590_diplomacy_text_generation": Definition(
        "You are given first 5 messages from a series of message exchanges between 2 persons playing the"
        " game of Diplomacy which is an American strategic board game. You need to generate the next "
        "message. The message should be generated such that it fits the context seen so far. Avoid the "
        "text that is (i) tangent to the context, (ii) repeats the context.",
        kind="dialogue generation",
        passage=BUT_THE_END,
    ),
    "task1687_sentiment140_classification": Definition(
        "In this task, you are given a text from tweets. Your task is to classify given tweet text into "
        "two categories: 1) positive, and 2) negative based on its content.",
        kind="sentiment analysis",
        labels=("positive", "negative"),
    ),
    "task1729_personachat_generate_next": Definition(
        "Your task is to generate the next utterance in a given dialogue. You will be given a few "
        "sentences describing the personality of the person who is making the dialogue, and a history of"
        " the dialogue after that. Each line in the history is said by one of the two participants in "
        "the conversation.",
        kind="dialogue generation",
        passage=BUT_THE_END,
    ),
    "task181_outcome_extraction": Definition(
        "In medical studies, treatments are tested within a group of study participants. To determine if"
        " a new treatment works, various outcomes are measured in the people who take part in the study."
        " You will be given a sentence of a study report in which your task is to list the phrases that "
        "give information about the outcomes of the study. You should list the phrases in the same order"
        " that they appear in the text, separated by commas. If no information about the outcome is "
        'mentioned, just answer with: "not found".\n'
        " Outcomes contain: outcomes measured in patients: like blood sugar,\n"
        " outcomes regarding the intervention: like effectiveness, costs\n"
        " the score on a medical test or questionnaire,\n"
        " positive or negative events in the patient groups: like quitting smoking, or adverse "
        "reactions.\n"
        " Do not mention numbers or results, interpretations of outcomes, outcome mentions without "
        "relevant information.",
        kind="information extraction",
    ),
    "task363_sst2_polarity_classification": Definition(
        "In this task, you are given sentences from movie reviews. The task is to classify a sentence as"
        ' "POS" if the sentiment of the sentence is positive or as "NEG" if the sentiment of the '
        "sentence is negative",
        kind="sentiment analysis",
        labels=("POS", "NEG"),
    ),
    "task511_reddit_tifu_long_text_summarization": Definition(
        "In this task, you are given a Reddit post as a text. Your task is to generate a short summary "
        "for this text. The summary must include a situation which caused humor. The summary should be "
        "one or two sentences long.",
        kind="summarization",
    ),
    "task591_sciq_answer_generation": Definition(
        "Given a scientific question, generate a correct answer to it.",
        kind="question answering",
        passage=NOTHING,
    ),
    "task639_multi_woz_user_utterance_generation": Definition(
        "You are shown a random response (from a computer or a human). Generate a language query such "
        "that it leads to this reply.",
        kind="dialogue generation",
    ),
    "task748_glucose_reverse_cause_event_detection": Definition(
        "In this task, you will be given a short story. One sentence from the story is chosen. Consider "
        "the events that happen after that sentence. Is any of them directly caused by it, or is made "
        'possible by it? You should write your answer in the form " A >causes/enables> B". Try to use '
        "phrases and sentences from the story to compose your answer when possible. Do not change the "
        "main selected sentence in your answer.",
        kind="information extraction",
        passage=r"(?s)story: (.*)\n selected sentence: .*",
    ),
    "task875_emotion_classification": Definition(
        "In this task, you are given a sentence containing a particular emotion. You must classify the "
        "sentence into one of the six emotions: 'joy', 'love', 'anger', 'fear', or 'surprise'.",
        kind="sentiment analysis",
        labels=("joy", "love", "anger", "fear", "surprise", "sadness"),
    ),
}

ORDERS: dict[str, tuple[str, ...]] = {
    name: tuple(order.split())
    for name, order in {
        "superni/1": "task1572_samsum_summary task363_sst2_polarity_classification task1290_xsum_summarization "
        "task181_outcome_extraction task002_quoref_answer_generation task1510_evalution_relation_extraction "
        "task639_multi_woz_user_utterance_generation task1729_personachat_generate_next "
        "task073_commonsenseqa_answer_generation task1590_diplomacy_text_generation "
        "task748_glucose_reverse_cause_event_detection task511_reddit_tifu_long_text_summarization "
        "task591_sciq_answer_generation task1687_sentiment140_classification task875_emotion_classification",
        "superni/2": "task748_glucose_reverse_cause_event_detection task073_commonsenseqa_answer_generation "
        "task1590_diplomacy_text_generation task639_multi_woz_user_utterance_generation "
        "task1572_samsum_summary task1687_sentiment140_classification task591_sciq_answer_generation "
        "task363_sst2_polarity_classification task1510_evalution_relation_extraction "
        "task1729_personachat_generate_next task181_outcome_extraction "
        "task511_reddit_tifu_long_text_summarization task002_quoref_answer_generation "
        "task1290_xsum_summarization task875_emotion_classification",
    }.items()
}
