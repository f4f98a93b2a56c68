package io.github.mimomobile.runtime.grammar

/** Whole numbers between two bounds, digit by digit. */
internal object IntegerRange {
    /** Alternatives in GBNF; a bound that is null is none. */
    fun of(least: Long?, most: Long?): List<String> {
        val found = mutableListOf<String>()
        if (least == null || least < 0) {
            val from = if (most != null && most < 0) -most else 1
            found += between(from, least?.let { -it }).map { "\"-\" $it" }
        }
        if (most == null || most >= 0) found += between(maxOf(least ?: 0, 0), most)
        return found
    }

    /** Numbers that are not below 0. */
    private fun between(least: Long, most: Long?): List<String> {
        val found = mutableListOf<String>()
        var from = least
        while (most == null || from <= most) {
            val digits = from.toString()
            val last = "9".repeat(digits.length).toLong()
            found += digits(digits, minOf(last, most ?: last).toString())
            if (most == null && digits.length == least.toString().length) {
                found += "[1-9] [0-9]{${digits.length},}"
                break
            }
            from = last + 1
        }
        return found
    }

    /** Numbers of equally many digits. */
    private fun digits(least: String, most: String): List<String> {
        if (least.isEmpty()) return listOf("")
        val any = if (least.length > 1) " [0-9]{${least.length - 1}}" else ""
        if (least.drop(1).all { it == '0' } && most.drop(1).all { it == '9' }) return listOf("[${least[0]}-${most[0]}]$any")
        if (least[0] == most[0]) return digits(least.drop(1), most.drop(1)).map { "\"${least[0]}\" $it" }
        val found = digits(least.drop(1), "9".repeat(least.length - 1)).map { "\"${least[0]}\" $it" }.toMutableList()
        if (least[0] + 1 < most[0]) found += "[${least[0] + 1}-${most[0] - 1}]$any"
        return found + digits("0".repeat(most.length - 1), most.drop(1)).map { "\"${most[0]}\" $it" }
    }
}
