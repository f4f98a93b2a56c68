package io.github.mimomobile.runtime.grammar

/**
 * What schemas can be met by, as far as it tells two of them apart.
 *
 * @param refer What a `$ref` refers to.
 */
internal class SchemaShapes(private val refer: (String) -> Any?) {
    private var work = 0L

    /** Types of values, and the values themselves where there are few. */
    private class Shape(val types: Set<String>, val values: List<Any?>? = null)

    /** Whether surely no value meets both schemas. */
    fun areApart(first: Any?, second: Any?, depth: Int = 0): Boolean {
        if (depth > MOST_DEPTH || ++work > MOST_WORK) return false
        val (one, other) = Pair(shape(first, depth), shape(second, depth))
        if (one.types.none { it in other.types }) return true
        if (one.values != null && other.values != null) {
            work += one.values.size.toLong() * other.values.size
            return work <= MOST_WORK && one.values.none { value -> other.values.any { isSame(value, it) } }
        }
        if (one.types.intersect(other.types) != setOf("object")) return false
        val others = required(second, depth)
        return required(first, depth).any { (name, schema) ->
            work <= MOST_WORK && others[name]?.let { areApart(schema, it, depth + 1) } == true
        }
    }

    private fun shape(schema: Any?, depth: Int): Shape {
        if (schema !is Map<*, *> || depth > MOST_DEPTH || ++work > MOST_WORK) return Shape(TYPES)
        val pointer = schema["\$ref"]
        if (pointer is String) return shape(refer(pointer), depth + 1)
        for (key in listOf("anyOf", "oneOf", "allOf")) {
            val parts = (schema[key] as? List<*>)?.map { shape(it, depth + 1) } ?: continue
            if (key == "allOf" && parts.size > 1) continue
            return Shape(parts.flatMap { it.types }.toSet(), if (parts.all { it.values != null }) parts.flatMap { it.values!! } else null).also(::count)
        }
        val values = if ("const" in schema) listOf(schema["const"]) else schema["enum"] as? List<*>
        if (values != null) return Shape(values.map(::type).toSet(), values).also(::count)
        val types = schema["type"] ?: return Shape(TYPES)
        return Shape((types as? List<*> ?: listOf(types)).map { if (it == "integer") "number" else "$it" }.toSet())
    }

    private fun count(shape: Shape) {
        work += shape.values?.size ?: 0
    }

    /** The properties that an object must have, and their schemas. */
    private fun required(schema: Any?, depth: Int): Map<String, Any?> {
        if (schema !is Map<*, *> || depth > MOST_DEPTH) return emptyMap()
        (schema["\$ref"] as? String)?.let { return required(refer(it), depth + 1) }
        val properties = schema["properties"] as? Map<*, *> ?: return emptyMap()
        val names = (schema["required"] as? List<*>).orEmpty().filter { it in properties }
        work += names.size
        return names.associate { it as String to properties[it] }
    }

    private fun type(value: Any?): String = when (value) {
        is Map<*, *> -> "object"
        is List<*> -> "array"
        is String -> "string"
        is Boolean -> "boolean"
        null -> "null"
        else -> "number"
    }

    /** Whether two values may be the same: objects and lists are not looked into. */
    private fun isSame(first: Any?, second: Any?): Boolean = when (first) {
        is Number -> second is Number && first.toDouble() == second.toDouble()
        is Map<*, *>, is List<*> -> type(first) == type(second)
        else -> first == second
    }

    private companion object {
        val TYPES = setOf("object", "array", "string", "number", "boolean", "null")
        const val MOST_DEPTH = 20

        /** So much is looked at: schemas that refer to themselves in several places would take more with every level. */
        const val MOST_WORK = 4_000_000
    }
}
