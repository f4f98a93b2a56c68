package io.github.mimomobile.runtime.grammar

import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.text.Json

/**
 * A JSON schema as a GBNF grammar, which is never wider than the schema: what it cannot say is an error that names the
 * keyword and its place.
 *
 * @param what The schema, for errors.
 * @param prefix Of all names of rules.
 * @param isCompact Whether there is one layout, without lines.
 * @param isLenient Whether keywords that a grammar cannot say are passed over.
 */
internal class SchemaGrammar(
    private val what: String = "schema",
    private val prefix: String = "",
    isCompact: Boolean = false,
    private val isLenient: Boolean = false,
) {
    private val rules = LinkedHashMap<String, String>()
    private val references = HashMap<String, String>()
    private var depth = 0
    private var nesting = 0
    private var root: Map<*, *> = emptyMap<String, Any>()
    private val space = if (isCompact) "" else "${prefix}ws "
    private val comma = if (isCompact) "\", \"" else "${prefix}ws \",\" ${prefix}ws"
    private val colon = if (isCompact) "\": \"" else "${prefix}ws \":\" ${prefix}ws"

    init {
        if (!isCompact) rules["ws"] = "( \" \" | \"\\n\" [ \\t]{0,20} )?"
        // Other escapes would be another spelling of what can be written as it is.
        rules["char"] = "[^\"\\\\\\x7F\\x00-\\x1F] | ${prefix}escape"
        rules["escape"] = "\"\\\\\" ( [\"\\\\bfnrt] | \"u00\" ( [01] ${prefix}hex | \"7\" [fF] ) )"
        rules["hex"] = "[0-9a-fA-F]"
        rules["string"] = "\"\\\"\" ${prefix}char* \"\\\"\""
        rules["integer"] = "\"-\"? ( \"0\" | [1-9] [0-9]* )"
        rules["number"] = "${prefix}integer ( \".\" [0-9]+ )? ( [eE] [+-]? [0-9]+ )?"
        rules["boolean"] = "\"true\" | \"false\""
        rules["null"] = "\"null\""
        rules["value"] = TYPES.filter { it != "integer" }.joinToString(" | ") { prefix + it }
        rules["object"] = braces("{", "${prefix}member", "${prefix}members", "}")
        rules["members"] = "$comma ${prefix}member"
        rules["member"] = "${prefix}string $colon ${prefix}value"
        rules["array"] = braces("[", "${prefix}value", "${prefix}values", "]")
        rules["values"] = "$comma ${prefix}value"
    }

    /** The rules, the first of them [prefix] and `root`. */
    fun of(schema: Map<*, *>): String {
        root = schema
        val made = rule(schema, "#")
        return "${prefix}root ::= $made\n" + rules.entries.joinToString("") { (name, body) -> "$prefix$name ::= $body\n" }
    }

    private fun braces(open: String, first: String, more: String, close: String) =
        "\"$open\" $space( $first $more* $space)? \"$close\""

    private fun fresh(body: String): String {
        require(rules.size < GrammarReader.MOST_RULES) { "$what: more than ${GrammarReader.MOST_RULES} rules; make it simpler" }
        val name = "r${rules.size}"
        rules[name] = body
        return prefix + name
    }

    private fun fail(place: String, problem: String): Nothing =
        throw MimoException.Unsupported("$what: at $place: $problem; Android does without it")

    private fun wrong(place: String, problem: String): Nothing = throw IllegalArgumentException("$what: at $place: $problem")

    /** The name of a rule for a schema. */
    private fun rule(schema: Any?, place: String): String {
        if (++nesting > MOST_NESTING) fail(place.take(LONGEST), "more than $MOST_NESTING schemas and references within each other")
        return made(schema, place).also { nesting-- }
    }

    private fun made(schema: Any?, place: String): String {
        if (schema == true) return "${prefix}value"
        if (schema == false) fail(place, "false, which allows nothing")
        if (schema !is Map<*, *>) wrong(place, "a schema expected")
        val keys = schema.keys.map { it as String }.filter { it !in ANNOTATIONS }
        for (key in keys) if (key !in KNOWN && !isLenient) fail(place, "the keyword $key".take(LONGEST))
        for (key in ALONE) {
            if (key !in schema) continue
            val others = keys - key - if (key == "enum" || key == "const") setOf("type") else emptySet()
            if (others.isNotEmpty() && !isLenient) fail(place, "$key beside ${others.first()}")
            if (key == "allOf" && list(schema[key], "$place/allOf").size > 1) {
                if (isLenient) continue
                fail(place, "allOf of several")
            }
            return when (key) {
                "\$ref" -> reference(schema[key], place)
                "anyOf", "oneOf", "allOf" -> {
                    if (key == "oneOf" && !isLenient) checkApart(list(schema[key], "$place/oneOf"), place)
                    fresh(options(schema[key], place, key).joinToString(" | "))
                }
                "const" -> constants(listOf(schema[key]), schema["type"], place)
                else -> constants(list(schema[key], "$place/enum"), schema["type"], place)
            }
        }
        val types = when (val type = schema["type"]) {
            null -> if ("type" in schema) wrong(place, "type null") else TYPES.filter { it != "integer" }
            is String -> listOf(type)
            else -> list(type, "$place/type").map { it as? String ?: wrong(place, "type: names expected") }
        }
        types.firstOrNull { it !in TYPES }?.let { wrong(place, "the type ${it.take(LONGEST)} is unknown") }
        if (types.isEmpty()) wrong(place, "no type")
        return types.distinct().map { ofType(it, schema, place) }.let { if (it.size == 1) it[0] else fresh(it.joinToString(" | ")) }
    }

    private fun ofType(type: String, schema: Map<*, *>, place: String): String = when (type) {
        "object" -> objects(schema, place)
        "array" -> arrays(schema, place)
        "string" -> strings(schema, place)
        "integer", "number" -> numbers(type, schema, place)
        else -> prefix + type
    }

    private fun list(value: Any?, place: String): List<*> =
        (value as? List<*>)?.takeIf { it.isNotEmpty() } ?: wrong(place, "a list expected with something in it")

    private fun options(value: Any?, place: String, key: String): List<String> =
        list(value, "$place/$key").mapIndexed { index, each -> rule(each, "$place/$key/$index") }

    private fun checkApart(schemas: List<*>, place: String) {
        val shapes = SchemaShapes { found(it, place) }
        for ((index, each) in schemas.withIndex()) {
            for (other in 0 until index) {
                if (!shapes.areApart(schemas[other], each)) fail(place, "oneOf, whose $other and $index may both be met; take anyOf")
            }
        }
    }

    private fun reference(value: Any?, place: String): String {
        val pointer = value as? String ?: wrong(place, "\$ref: a text expected")
        references[pointer]?.let { return prefix + it }
        val found = found(pointer, place)
        val name = "d${rules.size}"
        rules[name] = ""
        references[pointer] = name
        if (++depth > MOST_REFERENCES) fail(place, "more than $MOST_REFERENCES references within each other")
        rules[name] = rule(found, pointer)
        depth--
        return prefix + name
    }

    /** What a reference refers to. */
    private fun found(pointer: String, place: String): Any? {
        if (pointer != "#" && !pointer.startsWith("#/")) fail(place, "\$ref to ${pointer.take(LONGEST)}, which is elsewhere")
        var found: Any? = root
        for (step in pointer.removePrefix("#").split('/').drop(1)) {
            val name = step.replace("~1", "/").replace("~0", "~")
            found = (found as? Map<*, *>)?.takeIf { name in it }?.get(name)
                ?: wrong(place, "\$ref to ${pointer.take(LONGEST)}, which is not there")
        }
        return found
    }

    private fun constants(values: List<*>, type: Any?, place: String): String {
        val types = if (type == null) null else (type as? List<*>) ?: listOf(type)
        val fitting = values.filter { value -> types == null || types.any { isOf(value, it) } }
        if (fitting.isEmpty()) wrong(place, "no value of its type")
        return fresh(fitting.map(::constant).distinct().joinToString(" | "))
    }

    private fun isOf(value: Any?, type: Any?): Boolean = when (type) {
        "object" -> value is Map<*, *>
        "array" -> value is List<*>
        "string" -> value is String
        "boolean" -> value is Boolean
        "null" -> value == null
        "integer" -> value is Number && (value !is Double || value % 1 == 0.0)
        "number" -> value is Number
        else -> false
    }

    private fun constant(value: Any?): String = when (value) {
        is Map<*, *> -> {
            val parts = value.entries.map { (name, each) -> "${Choices.literal(Json.text(name))} $colon ${constant(each)}" }
            fresh("\"{\" $space${parts.joinToString(" $comma ")} ${if (parts.isEmpty()) "" else space}\"}\"")
        }
        is List<*> -> {
            val parts = value.map(::constant)
            fresh("\"[\" $space${parts.joinToString(" $comma ")} ${if (parts.isEmpty()) "" else space}\"]\"")
        }
        // llguidance writes them without an exponent, and without a point where they are whole.
        is Double -> Json.text(value).let {
            Choices.literal(if ('e' in it) it.toBigDecimal().toPlainString() else it.removeSuffix(".0"))
        }
        else -> Choices.literal(Json.text(value))
    }

    private fun objects(schema: Map<*, *>, place: String): String {
        val properties = schema["properties"] ?: emptyMap<String, Any>()
        if (properties !is Map<*, *>) wrong(place, "properties: an object expected")
        val required = schema["required"] ?: emptyList<String>()
        if (required !is List<*>) wrong(place, "required: a list expected")
        val others = if ("additionalProperties" in schema) schema["additionalProperties"] else true
        if (properties.isEmpty() && required.isEmpty() && others == true) return "${prefix}object"
        val names = required.map { it as? String ?: wrong(place, "required: names expected") }.distinct()
        val unnamed = names.filter { it !in properties }
        if (others == false && unnamed.isNotEmpty()) {
            wrong(place, "required ${unnamed[0].take(LONGEST)}, which additionalProperties do not allow")
        }
        val other = if (others == false) null else rule(others, "$place/additionalProperties")
        val pairs = properties.entries.map { (name, each) ->
            val made = rule(each, "$place/properties/${(name as String).replace("~", "~0").replace("/", "~1")}")
            fresh("${Choices.literal(Json.text(name))} $colon $made") to (name in required)
        } + unnamed.map { fresh("${Choices.literal(Json.text(it))} $colon $other") to true }
        val taken = properties.keys.map { it as String } + unnamed
        val member = other?.let { fresh("${otherName(taken, place)} $colon $it") }
        // From the last property to the first: what may follow a pair, and what may come where none came yet.
        var tail = member?.let { "${fresh("$comma $it")}*" }
        var head = member?.let { fresh("$it $tail") }
        var mayBeEmpty = true
        for ((pair, isRequired) in pairs.asReversed()) {
            val begun = listOfNotNull(pair, tail).joinToString(" ")
            head = if (isRequired || head == null) fresh(begun) else fresh("$begun | $head")
            mayBeEmpty = mayBeEmpty && !isRequired
            val more = fresh("$comma $pair") + if (isRequired) "" else "?"
            tail = fresh(listOfNotNull(more, tail).joinToString(" "))
        }
        val inside = if (head == null) "" else if (mayBeEmpty) "( $head $space)? " else "$head $space"
        return fresh("\"{\" $space$inside\"}\"")
    }

    /** A rule for texts in quotes that are none of [names]; written without escapes, as these could stand for one. */
    private fun otherName(names: List<String>, place: String): String {
        val plain = "[^\"\\\\\\x7F\\x00-\\x1F]"
        if (names.isEmpty()) return "${prefix}string"
        names.firstOrNull { it.length > LONGEST_NAME }?.let {
            fail(place, "a property of ${it.length} characters beside others that have no name, $LONGEST_NAME at most")
        }
        fun after(rest: List<String>): String {
            val nexts = rest.filter { it.isNotEmpty() }.groupBy { String(Character.toChars(it.codePointAt(0))) }
            val outside = nexts.keys.joinToString("") { "\\U%08X".format(it.codePointAt(0)) }
            val options = nexts.filterKeys { it.codePointAt(0) > 0x1F && it !in "\"\\\u007f" }.map { (first, each) ->
                "${Choices.literal(first)} ${after(each.map { it.substring(first.length) })}"
            }
            val end = if (rest.any { it.isEmpty() }) emptyList() else listOf("\"\\\"\"")
            return fresh((listOf("${plain.dropLast(1)}$outside] $plain* \"\\\"\"") + options + end).joinToString(" | "))
        }
        return fresh("\"\\\"\" ${after(names)}")
    }

    private fun arrays(schema: Map<*, *>, place: String): String {
        val first = schema["prefixItems"]?.let { list(it, "$place/prefixItems") }.orEmpty()
        val others = if ("items" in schema) schema["items"] else true
        val least = count(schema, "minItems", place) ?: 0
        val bounds = listOfNotNull(count(schema, "maxItems", place), first.size.takeIf { others == false })
        val most = bounds.minOrNull()
        if (most != null && most < least) wrong(place, "minItems $least is more than can be, $most")
        if ((schema["uniqueItems"] ?: false) != false && !isLenient) fail(place, "the keyword uniqueItems")
        if (most == 0) return fresh("\"[\" $space\"]\"")
        val items = first.take(most ?: first.size).mapIndexed { index, each -> rule(each, "$place/prefixItems/$index") }.toMutableList()
        // From the last item to the second: what may follow the one before.
        var tail = ""
        if (most == null || most > items.size) {
            val item = rule(others, "$place/items")
            if (items.isEmpty()) items += item
            tail = "${fresh("$comma $item")}{${maxOf(least - items.size, 0)},${most?.minus(items.size) ?: ""}}"
        }
        for (index in items.indices.reversed()) {
            if (index > 0) tail = fresh("$comma ${items[index]} $tail") + if (index < least) "" else "?"
        }
        val inside = "${items[0]} $tail $space"
        return fresh(if (least == 0) "\"[\" $space( $inside)? \"]\"" else "\"[\" $space$inside\"]\"")
    }

    private fun strings(schema: Map<*, *>, place: String): String {
        val least = count(schema, "minLength", place) ?: 0
        val most = count(schema, "maxLength", place)
        if (most != null && most < least) wrong(place, "minLength $least is more than maxLength $most")
        val kept = listOf("pattern", "format").filter { it in schema }
        if (kept.isNotEmpty()) {
            try {
                val others = kept.drop(1) + listOf("minLength", "maxLength").filter { it in schema }
                if (others.isNotEmpty()) fail(place, "${kept[0]} beside ${others[0]}")
                return matching(kept[0], schema[kept[0]] as? String ?: wrong(place, "${kept[0]}: a text expected"), place)
            } catch (error: MimoException.Unsupported) {
                if (!isLenient) throw error
            }
        }
        if (least == 0 && most == null) return "${prefix}string"
        return fresh("\"\\\"\" ${prefix}char{$least,${most ?: ""}} \"\\\"\"")
    }

    private fun matching(key: String, value: String, place: String): String {
        val expression = if (key == "pattern") value else
            STRING_FORMATS[value]?.let { "^(?:$it)$" } ?: fail(place, "the format ${value.take(LONGEST)}")
        val body = RegexGrammar.found(expression, "$what: at $place: $key", "${prefix}char*", ::quoted)
        return fresh("\"\\\"\" ( $body ) \"\\\"\"")
    }

    /** A set of characters as JSON writes them, which has more than one way for some. */
    private fun quoted(set: CharSet): String {
        val options = mutableListOf<String>()
        if (!(set - ESCAPED).isEmpty) options += RegexGrammar.gbnf(set - ESCAPED)
        val escaped = ESCAPED - !set
        if (escaped == ESCAPED) options += "${prefix}escape"
        if (escaped != ESCAPED) {
            for (char in escaped.ranges().flatten()) {
                SHORT_ESCAPES[char]?.let { options += Choices.literal("\\$it") }
                if (char == '"'.code || char == '\\'.code) continue
                val digits = "%02x".format(char)
                options += "\"\\\\u00${digits[0]}\" [${setOf(digits[1], digits[1].uppercaseChar()).joinToString("")}]"
            }
        }
        if (options.isEmpty()) throw IllegalArgumentException("$what: a class of no characters")
        return options.joinToString(" | ", "( ", " )")
    }

    private fun count(schema: Map<*, *>, key: String, place: String): Int? {
        val value = schema[key] ?: return null
        val number = (value as? Long)?.takeIf { it >= 0 } ?: wrong(place, "$key: a whole number expected")
        if (number > GrammarReader.MOST_TIMES) {
            if (isLenient) return null
            fail(place, "$key $number, ${GrammarReader.MOST_TIMES} at most")
        }
        return number.toInt()
    }

    private fun numbers(type: String, schema: Map<*, *>, place: String): String {
        fun bound(key: String, isIn: Boolean): Bound? {
            if (key !in schema) return null
            val value = schema[key]
            val number = (value as? Number)?.let { Json.text(it).toBigDecimal() }?.takeIf {
                it.abs() <= MOST_NUMBER.toBigDecimal() && (type == "integer" || it.scale() <= MOST_FRACTION)
            }
            if (number == null && !isLenient) {
                val expected = "a number of 15 digits at most, and $MOST_FRACTION behind the point, expected"
                fail(place, "$key ${value.toString().take(LONGEST)}, $expected")
            }
            return number?.let { Bound(it, isIn) }
        }
        val least = listOfNotNull(bound("minimum", true), bound("exclusiveMinimum", false))
            .maxWithOrNull(compareBy({ it.value }, { !it.isIn }))
        val most = listOfNotNull(bound("maximum", true), bound("exclusiveMaximum", false))
            .minWithOrNull(compareBy({ it.value }, { it.isIn }))
        if (least == null && most == null) return prefix + type
        val found = if (type == "number") NumberRange.of(least, most) else
            IntegerRange.of(least?.leastWhole(), most?.mostWhole())
        if (found.isEmpty()) wrong(place, "no $type from minimum ${least?.value} to maximum ${most?.value}")
        return fresh(found.joinToString(" | "))
    }

    private companion object {
        val TYPES = listOf("object", "array", "string", "number", "integer", "boolean", "null")
        val ALONE = listOf("\$ref", "const", "enum", "anyOf", "oneOf", "allOf")
        val ANNOTATIONS = setOf(
            "title", "description", "default", "examples", "\$schema", "\$id", "\$comment", "deprecated", "readOnly",
            "writeOnly", "\$defs", "definitions",
        )
        val KNOWN = setOf(
            "type", "properties", "required", "additionalProperties", "items", "minItems", "maxItems", "uniqueItems",
            "prefixItems", "minLength", "maxLength", "pattern", "format", "minimum", "maximum", "exclusiveMinimum",
            "exclusiveMaximum",
        ) + ALONE

        /** Characters that JSON writes as escapes alone, and the short ones of them. */
        val ESCAPED = CharSet.of(listOf(0..0x1F, '"'.code..'"'.code, '\\'.code..'\\'.code, 0x7F..0x7F))
        val SHORT_ESCAPES = mapOf(
            '"'.code to '"', '\\'.code to '\\', 8 to 'b', 12 to 'f', 10 to 'n', 13 to 'r', 9 to 't',
        )
        const val MOST_REFERENCES = 100

        /** So deep a stack may get: a reference may lead to a schema that is nested itself. */
        const val MOST_NESTING = 300
        const val LONGEST = 80

        /** Characters of a name that others are told from, one rule within another for each. */
        const val LONGEST_NAME = 500
        const val MOST_NUMBER = 999_999_999_999_999

        /** Digits of a bound behind the point, each of which is a place where a number can leave it. */
        const val MOST_FRACTION = 30
    }
}
