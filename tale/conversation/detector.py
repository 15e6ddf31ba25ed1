"""What a message asks for, told by rules: fixed phrases that are certain, and plain ones that stand in for learning."""

import re
import unicodedata
from typing import Final, NamedTuple

from tale.records import Detection, Intent

CERTAIN: Final = 0.99
LOOKED_AT: Final = 2_000  # characters at the beginning of a message, and at its end
WORDS_OF_A_FRAGMENT: Final = 3

# Whole messages, without signs, accents and politeness: each is certain by itself.
PHRASES: Final[dict[Intent, str]] = {
    "control": (
        "stop|stop it|stop that|stop now|stop everything|stop all|cancel|cancel it|cancel that|cancel all"
        "|cancel everything|abort|halt|pause|pause it|pause everything|resume|resume it|unpause|retry"
        "|try again|start over|never mind|stopp|abbrechen|brich ab|pausieren|fortsetzen|weitermachen|anhalten"
        "|abbruch|hor auf|versuch es nochmal|arrete|arretez|annule|annule tout|pause|reprends|relance|stoppe"
        "|arrete tout|para|para ya|detente|cancela|cancelalo|cancela todo|pausa|reanuda|alto|fermati|ferma"
        "|annulla|annulla tutto|riprendi|pare|cancele|cancela tudo|retoma|continua|stoppen|annuleer|annuleren"
        "|pauzeer|hervat|zatrzymaj|anuluj|wstrzymaj|wznow|dur|durdur|iptal|iptal et|devam et|стоп|отмена"
        "|отмени|останови|пауза|продолжи|продолжай|停|停止|取消|暂停|继续|重试|停下|止めて|停止|中止"
        "|キャンセル|一時停止|再開|रुको|रोको|रद्द करो|जारी रखो"
    ),
    "status": (
        "status|progress|state|queue|my tasks|list tasks|list my tasks|show my tasks|is it done|is it ready"
        "|is it finished|are you done|done yet|ready yet|how far|how far is it|how far are you"
        "|how much longer|what is running|whats running|any news|any update|any updates|eta|fertig"
        "|schon fertig|stand|wie weit|wie weit bist du|wie lange noch|meine auftrage|meine aufgaben|statut"
        "|c'est pret|c'est fini|ou en es tu|mes taches|ou en est on|estado|ya esta|esta listo|cuanto falta"
        "|mis tareas|como va|stato|e pronto|a che punto siamo|hai finito|quanto manca|esta pronto"
        "|ja esta pronto|quanto falta|is het klaar|is het al klaar|hoe ver|hoe ver ben je|gotowe|czy gotowe"
        "|hazir mi|bitti mi|статус|готово|уже готово|状态|进度|好了吗|做完了吗|状況|進捗|できた|できましたか"
        "|हो गया|हो गया क्या|कब तक"
    ),
    "chat": (
        "hi|hello|hey|good morning|good evening|good night|bye|thanks|thank you|thank you very much|thx|ty"
        "|cheers|how are you|hallo|guten morgen|guten tag|guten abend|danke|vielen dank|danke schon|servus"
        "|moin|bonjour|bonsoir|salut|merci|merci beaucoup|hola|buenos dias|buenas|gracias|muchas gracias|ciao"
        "|buongiorno|buonasera|grazie|grazie mille|ola|oi|bom dia|boa tarde|obrigado|obrigada|hoi|goedemorgen"
        "|bedankt|dank je|dank je wel|czesc|dzien dobry|dzieki|dziekuje|merhaba|selam|gunaydin|tesekkurler"
        "|sag ol|привет|здравствуйте|спасибо|доброе утро|你好|早上好|谢谢|多谢|こんにちは|おはよう"
        "|おはようございます|ありがとう|ありがとうございます|नमस्ते|धन्यवाद|शुक्रिया"
    ),
}
LABEL_OF: Final[dict[str, Intent]] = {
    phrase: label for label, phrases in PHRASES.items() for phrase in phrases.split("|")
}
POLITE: Final = re.compile(
    r"\b(?:please|pls|plz|now|bitte|jetzt|s'il (?:te|vous) plait|stp|svp|por favor|porfa|per favore"
    r"|alsjeblieft|aub|prosze|lutfen|пожалуйста)\b|ください|प्लीज़"
)
NTH: Final = (
    r"(?:the |my )?(?:(?:first|second|third|fourth|last|latest|newest|1st|2nd|3rd|4th|other) (?:one|task|job"
    r"|request)|(?:task|job|number|no|request) ?\d{1,6}|both|all(?: of them)?)"
)
COMMAND: Final = re.compile(rf"(?:stop|cancel|abort|kill|pause|hold|resume|unpause|retry|rerun|restart) {NTH}")


class Rule(NamedTuple):
    """A plain rule: what it makes of a message, how often it is right, and why."""

    label: Intent
    pattern: re.Pattern[str]
    confidence: float
    reason: str


def _rule(label: Intent, confidence: float, reason: str, pattern: str) -> Rule:
    return Rule(label, re.compile(pattern), confidence, reason)


# Where an order begins: a sentence, or after a word of politeness or impatience.
ORDERED: Final = (
    r"(?:^|[.!?;:,\n]\s*+|\b(?:please|pls|plz|kindly|bitte|stp|now|just|and|then|instead|ok|(?:can|could|would"
    r"|will) (?:you|u))\s+)(?:(?:please|pls|kindly|also|me) )?"
)

# The first that fits decides. The confidences are the shares in which each was right on the project's own messages.
RULES: Final = (
    _rule(
        "chat",
        0.94,
        "it tries to break the rules or to get at secrets",
        r"system ?-?prompt|prompt (?:systeme|del sistema|di sistema|do sistema)|api[ -]?(?:key|schlussel)"
        r"|passwor|\bcle api|contrase|ignor\w* (?:all|your|previous|alle|deine|tes|toutes|tus|las|le|as) "
        r"|(?:forget|vergiss) (?:your|deine) |密码|パスワード|пароль|पासवर्ड",
    ),
    _rule(
        "chat",
        0.9,
        "it is only a question, as it says itself",
        r"just (?:asking|curious|wondering)|out of curiosity|only asking|if i asked|nur (?:so )?gefragt"
        r"|aus neugier|par curiosite|solo preguntaba|por curiosidad|per curiosita|z ciekawosci|sadece sordum"
        r"|просто интересно|只是问问",
    ),
    _rule(
        "control",
        0.73,
        "it tells something to stop, to wait or to go on",
        ORDERED + r"(?:stop|cancel|abort|halt|kill|pause|resume|unpause|retry|rerun|restart|hold|suspend"
        r"|withdraw|postpone|drop|scrap|delete|wipe|clear|try again|run .{1,30} again"
        r"|move .{1,40} (?:front|top|end|up|down)|put .{1,40} on hold)\b|\b(?:never ?mind|nvm"
        r"|forget it|forget that|scratch that|call it off|leave it|on second thoughts?)\W*$"
        r"|\b(?:don't|dont|do not) (?:start|begin)[^?]*$|no longer need|\b(?:first|before)\W*$"
        r"|as (?:first|next) in line|\b(?:brich|abbrechen|stopp|stornier|pausier|halt an|warte mit"
        r"|brauche? ich nicht mehr|doch nicht)\b|\bnoch nicht an\b|\b(?:arrete|annule|relance"
        r"|reprends|interromps|laisse tomber)|en pause\b|\bannuler\b|^(?:para\b|espera)"
        r"|\b(?:cancela|anula|deten|reanuda|pausa\b|reintenta|dejalo)|\bcancelar\b|^(?:ferma"
        r"|aspetta)|\b(?:annulla|riprendi|sospendi|lascia (?:perdere|stare))|\b(?:annuleer|op pauze"
        r"|laat maar)|\b(?:anuluj|zatrzymaj|wstrzymaj|wznow|przerwij)|(?:отмени|останови"
        r"|приостанови|повтори|подожди)|(?:iptal|durdur|beklet|bos ver)|取消|暂停|停掉|算了|重试"
        r"|先别|中止|キャンセル|止めて|再開|もう一度|रद्द|रोक|रुक",
    ),
    _rule(
        "control",
        0.97,
        "it sets how things are to be from now on",
        r"from now on|from here on|going forward|in future\b|ab (?:jetzt|sofort)|von nun an|kunftig|desormais"
        r"|dorenavant|a partir (?:de ahora|de maintenant|de agora)|de ahora en adelante|d'ora in poi|voortaan"
        r"|vanaf nu|od teraz|bundan sonra|отныне|впредь|以后|从现在|これから|今後|अब से|use the (?:big|small"
        r"|large)|(?:switch|change) to ",
    ),
    _rule(
        "status",
        0.7,
        "it asks how something stands",
        r"\b(?:is|are|was|has|have|did) (?:it|my|the|that|everything|you)\b.{0,60}\b(?:done|ready|finished?"
        r"|complete|running|stuck|through|started?|failed|crash(?:ed)?|arrived?)\b|how far\b|how long (?:is"
        r"|until|will)|how much longer|my (?:\w+ )?(?:task|job|request)s?\b|\bqueue\b|still (?:running"
        r"|waiting|nothing)|been waiting|did i ask|i asked|\bstatus of\b|any (?:news|update|word|progress)"
        r"|what.s running|where.s my|where is my|how.s the|how is (?:my|the)|what happened to|show me (?:my"
        r"|the|all)|\blist (?:my|all|the|every)|went wrong|\b(?:done|ready|finished)\W*\?|wie weit|\bfertig\b"
        r"|wie lange|auftrage|ich warte|warteschlange|wo bleibt|zeig mir|schief|ou en est|\b(?:pret|fini"
        r"|termine)e?s?\b|mes (?:taches|demandes)|j'attends|avance|montre-moi|echoue|\bya esta|\blist[oa]s?\b"
        r"|cuanto falta|mis tareas|esperando|fallo\b|muestrame|ensename|a che punto|\bpront[oaie]\b"
        r"|quanto manca|aspetto|mostrami|em que ponto|quanto falta|mostra-me|hoe ver|\bklaar\b|ik wacht"
        r"|na jakim etapie|gotow|czekam|hazir mi|bitti|ne durumda|bekliyorum|готов|на каком этапе|жду|好了吗"
        r"|进度|怎么样了|多久|できました|進捗|どうな|待って|हो गया|कहाँ तक|कब तक",
    ),
    _rule(
        "task",
        0.69,
        "it orders that something be made or worked on",
        ORDERED + r"(?:write|draft|make|create|build|translate|summari[sz]e|rewrite|fix|proofread|compose"
        r"|design|generate|refactor|prepare|convert|shorten|turn|implement|compare|plan|add|correct"
        r"|review|put together|sort|extract|explain (?:this|it)|check|analy[sz]e|come up with"
        r"|give me an?|give me \w+ \w+s|do me|redo|polish|tidy)\b|\bi(?:'d| would)? (?:need|like"
        r"|want|love) (?:you to|an?|the|some)\b|\bwe need\b|\b(?:can|could|may) i (?:have|get)\b"
        r"|\b(?:schreib|erstell|ubersetz|fass .{1,40} zusammen|mach (?:mir|daraus|eine?n?\b)"
        r"|verfass|entwirf|korrigier|kurz[et]?\b|verbesser|formulier)|ich (?:brauche?|hatte gern)"
        r"|\b(?:ecris|redige|traduis|resume|fais-moi|prepare|corrige|cree)|il me fau"
        r"|\b(?:escrib[ea]|redact|traduc|hazme|prepar|corrig|resum)|\bnecesito|\b(?:scriv|traduci"
        r"|riassumi|fammi|correggi)|mi serv|\b(?:escrev|traduz|faz-me)|\bpreciso|\b(?:schrijf"
        r"|vertaal|maak|vat .{1,40} samen)\b|\b(?:napisz|przetlumacz|zrob|przygotuj|popraw|streszc)"
        r"|(?:yaz|hazirla|cevir|ozetle)(?:r misin)?\W*$|(?:напиши|переведи|составь|сделай"
        r"|подготовь)|写|翻译|总结|做一|書いて|作って|訳して|लिखो|बनाओ|लिख दो|बना दो",
    ),
    _rule("task", 0.9, "material comes with it", r"^.{0,80}[:?]\s*\n|^.{0,60}: *[\"\u201c\u201e\u00ab]"),
    _rule(
        "chat",
        0.47,
        "it is a question",
        r"[?\uff1f\u061f]\s*$|^(?:what|why|how|who|when|where|which|was|warum|wie|wer|wo|que|qu|pourquoi"
        r"|comment|por que|como|come|perche|hoe|wat|dlaczego|jak|neden|nasil|почему|как|что|什么|为什么|なぜ"
        r"|क्या)\b",
    ),
)


def by_rule(text: str) -> Detection | None:
    """What a message asks for that is one of the fixed phrases; None for all others."""
    words = _words(text)
    if not words and not any(unicodedata.category(sign)[0] in "SP" for sign in text):
        return _certain("ambiguous", "there is nothing in it")
    plain = " ".join(POLITE.sub(" ", words).split())
    if label := LABEL_OF.get(plain):
        return _certain(label, FIXED[label])
    return _certain("control", FIXED["control"]) if COMMAND.fullmatch(plain) else None


FIXED: Final[dict[Intent, str]] = {
    "control": "it is a fixed phrase for stopping, holding or going on",
    "status": "it is a fixed phrase for asking how things stand",
    "chat": "it is a greeting or thanks",
}


def fallback(text: str) -> Detection:
    """What a message asks for by plain rules, for the time in which nobody can be asked who has learned it."""
    plain = _folded(f"{text[:LOOKED_AT]} {text[-LOOKED_AT:]}" if len(text) > 2 * LOOKED_AT else text).strip()
    for rule in RULES:
        if rule.pattern.search(plain):
            return Detection(rule.label, rule.confidence, (rule.reason,), "fallback")
    if len(plain.split()) <= WORDS_OF_A_FRAGMENT or plain.count("\n"):
        return Detection("ambiguous", 0.5, ("it does not say what is to be done",), "fallback")
    return Detection("chat", 0.25, ("nothing in it asks for more than an answer",), "fallback")


def _certain(label: Intent, reason: str) -> Detection:
    return Detection(label, CERTAIN, (reason,), "rule", {label: CERTAIN})


def _folded(text: str) -> str:
    """The text in small letters, without the accents of Latin letters."""
    plain = unicodedata.normalize("NFKD", text.casefold().replace("\u2019", "'").replace("\u0131", "i"))
    return unicodedata.normalize("NFC", re.sub("[\u0300-\u036f]", "", plain))


def _words(text: str) -> str:
    """The words of a short message, without any signs but apostrophes within words."""
    if len(text) > LOOKED_AT:
        return text
    signs = (
        sign if sign.isalnum() or unicodedata.category(sign)[0] == "M" or sign == "'" else " " for sign in _folded(text)
    )
    return " ".join("".join(signs).split())
