package io.github.mimomobile.runtime.text

/** Integers that become more, without boxes around them. */
internal class IntList(capacity: Int = 16) {
    private var values = IntArray(capacity)

    var size: Int = 0
        private set

    operator fun get(index: Int): Int = values[index]

    fun add(value: Int) {
        if (size == values.size) values = values.copyOf(maxOf(16, 2 * size))
        values[size++] = value
    }

    fun addAll(more: IntArray) = more.forEach(::add)

    /** Drops all from [length] on. */
    fun truncate(length: Int) {
        size = minOf(size, length)
    }

    fun toIntArray(): IntArray = values.copyOf(size)
}
