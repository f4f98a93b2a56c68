package io.github.mimomobile.runtime.text

/** Whether Python's and the tokenizers library's `\p{L}` match. */
internal fun isLetter(codePoint: Int): Boolean = Character.isLetter(codePoint)

/** Whether `\p{N}` matches: digits, letter-like and other numbers. */
internal fun isNumber(codePoint: Int): Boolean = when (Character.getType(codePoint).toByte()) {
    Character.DECIMAL_DIGIT_NUMBER, Character.LETTER_NUMBER, Character.OTHER_NUMBER -> true
    else -> false
}

/** Whether `\s` matches: Unicode's White_Space, which no class of Java's is. */
internal fun isSpace(codePoint: Int): Boolean = when (codePoint) {
    in 0x09..0x0D, 0x20, 0x85, 0xA0, 0x1680, in 0x2000..0x200A, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000 -> true
    else -> false
}

/** Without white space at the beginning, as Python's `lstrip` sees it. */
internal fun String.withoutLeadingSpace(): String = dropWhile { isStripped(it.code) }

/** Without white space at the end, as Python's `rstrip` sees it. */
internal fun String.withoutTrailingSpace(): String = dropLastWhile { isStripped(it.code) }

/** Whether Python's `isspace` is true, and its `\s` matches: of one character more than the tokenizers library's. */
internal fun isStripped(codePoint: Int): Boolean = codePoint in 0x1C..0x1F || isSpace(codePoint)
