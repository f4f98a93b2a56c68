package io.github.mimomobile.runtime.files

import io.github.mimomobile.runtime.ConversationText
import io.github.mimomobile.runtime.Turn
import io.github.mimomobile.runtime.WhenFull
import io.github.mimomobile.runtime.decode.ArrayType
import io.github.mimomobile.runtime.decode.StateArray
import java.io.OutputStream

/**
 * What a saved conversation says beside its keys and values.
 *
 * @property model SHA-256 of the SHA-256s of the model's files.
 * @property kvBytesPerToken Tells the types of keys and values apart.
 * @property cutThinks Whether the last answer was asked for with thinking; null when it was not cut, or in an older file.
 */
internal class ConversationHeader(
    val model: String,
    val kvBytesPerToken: Long,
    val system: String,
    val text: ConversationText,
    val keepThinking: Boolean,
    val whenFull: WhenFull,
    val cutThinks: Boolean? = null,
) {
    /** Writes it as Python's json.dumps does with ensure_ascii=False; half a surrogate pair, which is no text, becomes `?`. */
    fun writeTo(output: OutputStream, arrays: List<StateArray>) {
        val out = output.writer().buffered() // piece by piece: an app's Java heap may not have room for it twice
        fun quote(text: String) {
            out.write("\"")
            for (char in text) {
                val escape = ESCAPES.getOrNull(char.code) ?: if (char == '"') "\\\"" else if (char == '\\') "\\\\" else null
                if (escape == null) out.write(char.code) else out.write(escape)
            }
            out.write("\"")
        }
        out.write("""{"conversation_version": $VERSION, "model": "$model", "kv_bytes_per_token": $kvBytesPerToken, "system": """)
        quote(system)
        out.write(", \"turns\": [")
        text.turns.forEachIndexed { index, (question, thinking, answer) ->
            out.write(if (index == 0) "{\"question\": " else ", {\"question\": ")
            quote(question)
            out.write(", \"thinking\": ")
            quote(thinking)
            out.write(", \"answer\": ")
            quote(answer)
            out.write("}")
        }
        out.write("""], "dropped": ${text.dropped}, "keep_thinking": $keepThinking, """)
        out.write(""""when_full": "${whenFull.name.lowercase()}", "seed": "${text.seed.toULong()}", "draws": ${text.draws}, """)
        if (cutThinks != null) out.write("\"cut_thinks\": $cutThinks, ")
        val entries = arrays.joinToString { """{"name": "${it.name}", "dtype": "${it.type.word}", "shape": ${it.shape}}""" }
        out.write(""""arrays": [$entries]}""" + "\n")
        out.flush()
    }
}

/** The name, the type and the shape of an array in a file. */
internal class ArrayEntry(val name: String, val type: ArrayType, val shape: List<Long>) {
    /** @throws ArithmeticException They are more than a Long can say. */
    val size: Long = if (0L in shape) 0 else shape.fold(type.bytes.toLong(), Math::multiplyExact)
}

/** The name of the first array. */
internal const val TOKENS: String = "tokens"

/** A file of a newer [version]. */
internal class NewerVersion(val version: Long) : Exception()

/**
 * A header and the arrays that it announces, read as a stranger's. Turns are made while they are read, since there may be
 * as many as the header has room for.
 *
 * @throws JsonException It is none.
 * @throws NewerVersion It is of a version that is not known here.
 * @throws ArithmeticException An array is too large.
 */
internal fun readHeader(json: JsonReader): Pair<ConversationHeader, List<ArrayEntry>> {
    val found = HashMap<String, Any?>()
    json.readObject { name ->
        if (name in found) throw JsonException("'${name.take(LONG)}' twice")
        found[name] = if (name == "turns" && json.peek() == '[') json.readTurns() else json.readValue()
    }
    json.readEnd()
    val version = found.long("conversation_version", 1)
    if (version > VERSION) throw NewerVersion(version)
    return Pair(headerOf(found), entries(found))
}

private fun JsonReader.readTurns(): List<Turn> {
    val turns = ArrayList<Turn>()
    readArray {
        if (turns.size == MOST_TURNS) throw JsonException("turns: at most $MOST_TURNS expected")
        val found = HashMap<String, Any?>()
        readObject { name ->
            if (name in found) throw JsonException("'${name.take(LONG)}' twice")
            found[name] = if (peek() == '"') readString() else readValue()
        }
        turns += Turn(found.text("question"), found.text("thinking"), found.text("answer"))
    }
    return turns
}

private fun headerOf(found: Map<*, *>): ConversationHeader {
    val turns = found.values("turns").map { it as Turn }
    val seed = found.text("seed")
    val number = seed.takeIf { text -> text.length <= 20 && text.all { it in '0'..'9' } }?.toULongOrNull()
        ?: throw JsonException("seed: a whole number below 2^64 in decimal digits expected")
    val dropped = found.long("dropped", most = turns.size.toLong()).toInt()
    val full = found.text("when_full")
    val model = found.text("model")
    if (!model.matches(Regex("[0-9a-f]{64}"))) throw JsonException("model: 64 hexadecimal digits expected")
    val cutThinks = if (found["cut_thinks"] == null) null else found.flag("cut_thinks")
    if (cutThinks != null && turns.isEmpty()) throw JsonException("cut_thinks: a turn expected, whose answer was cut")
    return ConversationHeader(
        model = model,
        kvBytesPerToken = found.long("kv_bytes_per_token"),
        system = found.text("system"),
        text = ConversationText(turns, dropped, number.toLong(), found.long("draws")),
        keepThinking = found.flag("keep_thinking"),
        whenFull = WhenFull.entries.firstOrNull { it.name.lowercase() == full }
            ?: throw JsonException("when_full: error, stop or drop expected"),
        cutThinks = cutThinks,
    )
}

private fun entries(found: Map<*, *>): List<ArrayEntry> {
    val all = found.objects("arrays")
    if (all.size !in 1..MOST_ARRAYS) throw JsonException("arrays: 1 to $MOST_ARRAYS expected, ${all.size} found")
    val entries = all.map { each ->
        val word = each.text("dtype")
        val type = ArrayType.entries.firstOrNull { it.word == word } ?: throw JsonException("dtype: ${word.take(LONG)} found")
        val shape = each.values("shape").map { size ->
            (size as? Double)?.takeIf { it >= 0 && it <= MOST_SIZE && it == Math.rint(it) }?.toLong()
                ?: throw JsonException("shape: whole numbers expected")
        }
        if (shape.size > MOST_DIMENSIONS) throw JsonException("shape: at most $MOST_DIMENSIONS numbers expected")
        val name = each.text("name")
        if (name.length > MOST_NAME) throw JsonException("name: at most $MOST_NAME characters expected")
        ArrayEntry(name, type, shape)
    }
    val first = entries[0]
    if (first.name != TOKENS || first.type != ArrayType.I32 || first.shape.size != 1) {
        throw JsonException("its first array is not the ids of its tokens")
    }
    if (entries.distinctBy { it.name }.size != entries.size) throw JsonException("two of its arrays have one name")
    return entries
}

/** The newest version that is known here. */
internal const val VERSION: Long = 1

/** Turns of a conversation that are written and read, at most; Python has the same. */
internal const val MOST_TURNS: Int = 100_000
private const val MOST_ARRAYS = 10_000
private const val MOST_DIMENSIONS = 8
private const val MOST_NAME = 4096
private const val LONG = 40

/** Up to here a double keeps integers exactly. */
private const val MOST_SIZE = ((1L shl 53) - 1).toDouble()

/** How a string has characters below the space. */
private val ESCAPES = List(' '.code) { code ->
    when (val char = code.toChar()) {
        '\n' -> "\\n"
        '\r' -> "\\r"
        '\t' -> "\\t"
        '\b' -> "\\b"
        '\u000c' -> "\\f"
        else -> "\\u%04x".format(char.code)
    }
}
