package io.github.mimomobile.runtime.text

/**
 * GPT-2's byte alphabet: printable Latin-1 stands for itself, the other bytes for the characters from U+0100 on.
 *
 * Source: bytes_to_unicode, https://github.com/openai/gpt-2/blob/9b63575/src/encoder.py
 */
internal object ByteAlphabet {
    private val byteOf = IntArray(0x144) { NONE }

    init {
        val shown = ('!'.code..'~'.code) + ('¡'.code..'¬'.code) + ('®'.code..'ÿ'.code)
        val hidden = (0..255) - shown.toSet()
        shown.forEach { byteOf[it] = it }
        hidden.forEachIndexed { index, byte -> byteOf[0x100 + index] = byte }
    }

    const val NONE: Int = -1

    /** The byte that [char] stands for, or [NONE]. */
    fun byteOf(char: Char): Int = if (char.code < byteOf.size) byteOf[char.code] else NONE
}
