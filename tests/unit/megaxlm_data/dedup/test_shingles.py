import numpy as np
import pytest
from megaxlm_data.dedup.shingles import (
    DIGIT,
    DROPPED,
    SEPARATOR,
    UNSPACED_FLAG,
    folding_table,
    shingle_hashes,
)

ZH = "春天来了小猫在树下看着红色的花慢慢地走过石桥去找它的朋友一起喝水"
TH = "แมวตัวเล็กเดินไปที่ตลาดแล้วซื้อปลามาให้เพื่อนกินในตอนเช้าของวันหยุด"
KM = "ឆ្មាតូចដើរទៅផ្សារហើយទិញត្រីមកឲ្យមិត្តភក្តិញ៉ាំនៅពេលព្រឹក"
MY = "ကြောင်လေးသည်ဈေးသို့သွား၍ငါးကိုဝယ်ပြီးသူငယ်ချင်းအားပေးသည်"
BO = "ཞི་མི་ཆུང་ཆུང་ཞིག་ཁྲོམ་ལ་ཕྱིན་ནས་ཉ་ཉོས་ཏེ་གྲོགས་པོ་ལ་སྤྲད་དོ"
LO = "ແມວນ້ອຍຍ່າງໄປຕະຫຼາດແລ້ວຊື້ປາມາໃຫ້ໝູ່ກິນໃນຕອນເຊົ້າຂອງວັນພັກ"
JA = "小さなねこが市場へ歩いて行って友だちのために魚を買いました"


def shingles(*texts, words=5, characters=10):
    raw = [text.encode() for text in texts]
    offsets = np.cumsum([0, *map(len, raw)])
    hashes, owners = shingle_hashes(
        np.frombuffer(b"".join(raw), np.uint8), offsets, words, characters
    )
    return [hashes[owners == number].tolist() for number in range(len(texts))]


@pytest.mark.parametrize("text", [ZH, TH, KM, MY, BO, LO, JA])
def test_scripts_without_spaces_are_cut_into_characters(text):
    (found,) = shingles(text)
    entries = folding_table()[[ord(character) for character in text]]
    letters = int(np.count_nonzero(entries > SEPARATOR))
    assert len(found) == letters - 9
    (spaced,) = shingles(" ".join(text))  # where a line breaks or a space stands says nothing
    assert spaced == found


@pytest.mark.parametrize(
    "text",
    [
        "a small cat went to the market in the morning",
        "маленькая кошка утром пошла на рынок за свежей рыбой",
        "작은 고양이가 아침에 시장에 가서 물고기를 샀다 그리고 돌아왔다",
        "छोटी बिल्ली सुबह बाज़ार गई और मछली लेकर लौट आई",
    ],
)
def test_other_scripts_are_cut_into_words(text):
    (found,) = shingles(text)
    assert len(found) == len(set(found)) == len(text.split()) - 4


def test_a_third_of_chinese_makes_a_document_chinese():
    half = "春天来了小猫在树下看着 train the model with pytorch"
    tenth = "the model reads 春天 and then it writes many other words of english text"
    assert len(shingles(half)[0]) == 11 + len("trainthemodelwithpytorch") - 9
    assert len(shingles(tenth)[0]) == len(tenth.split()) - 4


def test_case_punctuation_and_digits_do_not_count():
    plain = "on the 0 of may the cat sold 0 fish to a dog"
    assert shingles("On the 21 of May, the CAT sold 1234 fish (to a dog)!") == shingles(plain)
    assert shingles("ON THE ٣ OF MAY — the cat\u200d\u200b sold ५५ fish\nto\ta dog") == shingles(
        plain
    )
    assert shingles(plain.replace("cat", "cow")) != shingles(plain)


def test_marks_that_spell_vowels_count():
    assert shingles("की की की की की") != shingles("का का का का का")
    assert shingles("straße und weg und haus") != shingles("strase und weg und haus")


def test_a_short_document_is_one_shingle_and_an_empty_one_has_none():
    found = shingles("one two", "one two three four five", "", "?! ...", "一二三", "One  two.")
    assert [len(each) for each in found] == [1, 1, 0, 0, 1, 1]
    assert found[0] == found[5] != found[1]


def test_the_words_of_two_documents_never_share_a_shingle():
    first, second = shingles("a b c d e", "f g h i j")
    assert len(first) == len(second) == 1
    (both,) = shingles("a b c d e f g h i j")
    assert len(both) == 6
    assert both[0] == first[0]
    assert both[5] == second[0]


def test_order_and_repetition_of_words_count():
    assert shingles("a b", words=2) != shingles("b a", words=2)
    assert shingles("a a", words=2) != shingles("a", words=2)
    assert shingles("ab c", words=2) != shingles("a bc", words=2)


def test_the_table_knows_what_is_what():
    table = folding_table()
    assert table[ord("A")] == ord("a")
    assert table[ord("İ")] != SEPARATOR  # its case fold has two characters
    assert table[ord("猫")] == ord("猫") | UNSPACED_FLAG
    assert table[ord("๕")] == DIGIT  # a Thai five
    assert table[0x200D] == table[0x200B] == table[0xAD] == DROPPED
    assert table[ord("་")] == table[ord("。")] == table[ord("\n")] == table[0x2028] == SEPARATOR
