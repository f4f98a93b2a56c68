package io.github.mimomobile.runtime.llama

import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.devices.Reference
import io.github.mimomobile.runtime.files.JsonException

/**
 * What a file is, when llama.cpp can compute all of it: from a few numbers of its metadata follow all tensors, their shapes
 * and types. llama.cpp aborts the process on many values instead of refusing the file, so that nothing is left to it.
 *
 * On a computer the Python library also tries a file in a process of its own; an Android app has no such process. What no
 * check knows of ends the app, which can see at its next start that a load did not end.
 *
 * Sources: https://github.com/ggml-org/llama.cpp/blob/0c1e57098/src/llama-model.cpp (load_hparams) and
 * https://github.com/ggml-org/llama.cpp/tree/0c1e57098/src/models (qwen2.cpp, step35.cpp)
 *
 * @throws MimoException.ModelLoad It is no MiMo-7B, or is damaged; the message says what was found and expected.
 */
internal fun checked(header: GgufHeader): GgufModel = GgufChecks(header).run()

private class GgufChecks(private val header: GgufHeader) {
    private lateinit var values: Map<String, Any>

    fun run(): GgufModel {
        val architecture = header.text("general.architecture")
        val rules = GgufRules.of(architecture)
        if (architecture == null || rules == null) {
            val found = shownValue(header.value("general.architecture"))
            fail("architecture $found found, '${GgufRules.TRUNK}' (MiMo-7B's) expected")
        }
        val type = header.value("general.type")
        if (type != null && type != "model") fail("general.type ${shownValue(type)} found, 'model' expected")
        values = numbers(architecture, rules)
        val model = model(architecture)
        val parts = header.value(SPLIT_COUNT) ?: 0L
        if (model.hasTrunk && parts != 0L && parts != 1L) {
            fail("one part of a split model found; join the parts with `llama-gguf-split --merge`")
        }
        checkAttention(model)
        checkVocabulary(model.vocabSize)
        checkTensors(model)
        return model
    }

    /** The values of an architecture's keys, each within its rule; those that are there. */
    private fun numbers(architecture: String, rules: Map<String, GgufRule>): Map<String, Any> {
        val prefix = "$architecture."
        for (key in header.keys) {
            val name = key.removePrefix(prefix)
            val isWindows = architecture == GgufRules.MTP && name == GgufRules.WINDOWS
            if (name != key && name !in rules && !isWindows) fail("the key ${shown(key)} found, which no MiMo-7B has")
        }
        return buildMap { for ((name, rule) in rules) number(prefix + name, name, rule)?.let { put(name, it) } }
    }

    /** The value of a key, which errors call [name], within its rule; null when the key is not there. */
    private fun number(key: String, name: String, rule: GgufRule): Any? {
        val kind = header.kind(key)
        if (kind == "nothing") {
            if (rule.isNeeded) fail("$name missing, $rule expected")
            return null
        }
        val value = header.value(key)
        if (kind != rule.kind || value == null) {
            fail("$name ${shownValue(value)} ($kind) found, $rule (${rule.kind}) expected")
        }
        if (!rule.allows(value)) fail("$name ${shownValue(value)} found, $rule expected")
        return value
    }

    private fun int(name: String): Int? = (values[name] as Long?)?.toInt()

    private fun model(architecture: String): GgufModel {
        val layers = int("block_count")!!
        val mtp = int("nextn_predict_layers") ?: 0
        if (mtp >= layers) fail("$mtp MTP layers among $layers layers found, fewer expected")
        val (heads, width) = Pair(int("attention.head_count")!!, int("embedding_length")!!)
        return GgufModel(
            architecture = architecture,
            layers = layers - mtp,
            mtpLayers = mtp,
            hasTrunk = mtp == 0 || "blk.0.attn_norm.weight" in header.tensors,
            hiddenSize = width,
            intermediateSize = int("feed_forward_length")!!,
            heads = heads,
            kvHeads = int("attention.head_count_kv")!!,
            headDim = int("attention.key_length") ?: (width / heads),
            vocabSize = header.count("$TOKENIZER.tokens"),
            contextLength = int("context_length")!!,
            largestQueryKey = number(LARGEST_QUERY_KEY, LARGEST_QUERY_KEY, GgufRules.LARGEST) as Double?,
        )
    }

    /** What the attention's numbers must be to each other. */
    private fun checkAttention(model: GgufModel) {
        val headDim = model.headDim
        if (model.heads % model.kvHeads != 0) {
            fail("head_count ${model.heads} found, a multiple of head_count_kv ${model.kvHeads} expected")
        }
        if (headDim % 2 != 0 || headDim == 0) fail("heads of $headDim found, an even number expected")
        val isMtp = model.architecture == GgufRules.MTP
        if (!isMtp && model.heads * headDim != model.hiddenSize) {
            fail(
                "head_count ${model.heads} with heads of $headDim found, together embedding_length ${model.hiddenSize}" +
                    " expected",
            )
        }
        val whole = mutableMapOf<String, Any>(
            "attention.value_length" to headDim.toLong(),
            "rope.dimension_count" to headDim.toLong(),
            "vocab_size" to model.vocabSize.toLong(),
        )
        if (isMtp) {
            // Layers with full attention rotate half of dimension_count: step35.cpp
            whole["rope.dimension_count"] = 2L * headDim
            whole["rope.dimension_count_swa"] = headDim.toLong()
            whole["rope.freq_base_swa"] = values.getValue("rope.freq_base")
            checkWindows(model)
        }
        for ((name, expected) in whole) {
            val found = values[name] ?: continue
            if (found != expected) fail("$name $found found, $expected expected")
        }
    }

    private fun checkWindows(model: GgufModel) {
        val windows = header.truths("${GgufRules.MTP}.${GgufRules.WINDOWS}")
        val window = int("attention.sliding_window")!!
        if (window < model.contextLength) fail("a sliding window of $window found, the whole context expected")
        val layers = model.layers + model.mtpLayers
        if (windows.size != layers || windows.none { it }) {
            fail("a sliding window for $layers layers expected, ${windows.count { it }} of ${windows.size} found")
        }
    }

    private fun checkTensors(model: GgufModel) {
        val expected = model.tensorShapes()
        val missing = (expected.keys - header.tensors.keys).sorted()
        if (missing.isNotEmpty()) fail("${listed(missing)} missing, ${expected.size} tensors expected")
        val unknown = header.tensors.keys.filter { it !in expected }.map(::shown)
        if (unknown.isNotEmpty()) fail("${listed(unknown)} found, which no MiMo-7B of ${model.layers} layers has")
        for ((name, shape) in expected) {
            val found = header.tensors.getValue(name)
            if (found.shape != shape) {
                val (wrong, right) = Pair(found.shape.joinToString("×"), shape.joinToString("×"))
                fail("$name of $wrong found, $right expected by the metadata")
            }
            if (shape.size == 1 && found.type != GgufType.F32) fail("$name in ${found.type} found, F32 expected")
            if (!found.type.computes) fail("$name in ${found.type} found, with which llama.cpp cannot compute")
        }
    }

    /** What llama.cpp makes of the vocabulary; the tokenizer checks what we do. */
    private fun checkVocabulary(size: Int) {
        if (size > MOST_IDS) fail("$size tokens found, $MOST_IDS are the most")
        val different = HashSet<String>(2 * size)
        var longest = 0
        header.strings("$TOKENIZER.tokens") { index, token ->
            different += token.ifEmpty { "[EMPTY_$index]" } // llama.cpp calls empty ones so
            longest = maxOf(longest, token.codePointCount(0, token.length))
        }
        if (different.size != size || size == 0) {
            fail("${different.size} different tokens found, ${maxOf(1, size)} expected")
        }
        header.strings("$TOKENIZER.merges") { _, merge -> longest = maxOf(longest, merge.codePointCount(0, merge.length)) }
        if (longest > MOST_TOKEN) fail("a token or merge of $longest characters found, $MOST_TOKEN are the most")
        val kinds = header.integers("$TOKENIZER.token_type")
        if (kinds.size != size || kinds.any { it !in 1..6 }) {
            fail("${kinds.size} token types found, $size from 1 to 6 expected")
        }
        val scores = header.kind("$TOKENIZER.scores")
        if (scores != "nothing" && (scores != "array of float32" || header.count("$TOKENIZER.scores") != size)) {
            fail("$TOKENIZER.scores: $scores found, $size scores in float32 expected")
        }
        for (name in header.keys) checkTokenizerKey(name, size)
    }

    private fun checkTokenizerKey(name: String, size: Int) {
        val (kind, value) = Pair(header.kind(name), header.value(name))
        if (name.startsWith("$TOKENIZER.add_") && kind != "bool") {
            fail("${shown(name)} ${shownValue(value)} found, a truth value expected")
        }
        val isId = name.startsWith(TOKENIZER) && name.endsWith("_token_id")
        if (isId && (kind != "uint32" || value as Long >= size)) {
            fail("${shown(name)} ${shownValue(value)} found, one of $size tokens expected")
        }
        if (name == CHAT_TEMPLATE && (kind != "string" || (value as String).let { it.codePointCount(0, it.length) } > MOST_TEMPLATE)) {
            fail("$name: a text of at most $MOST_TEMPLATE characters expected, another found")
        }
    }

    private fun listed(names: List<String>): String =
        names.take(3).joinToString(", ") + if (names.size > 3) " and ${names.size - 3} more" else ""

    private fun fail(found: String): Nothing =
        throw MimoException.ModelLoad("${header.file}: $found; a damaged file, or no MiMo-7B: download or convert it again")
}

/** Of each of the trunk's [layers], whether llama.cpp takes it for one with a window. */
internal fun windowsOf(header: GgufHeader, layers: Int): List<Boolean> =
    if (header.value("general.architecture") != GgufRules.MTP) List(layers) { false } else
        header.truths("${GgufRules.MTP}.${GgufRules.WINDOWS}").take(layers)

/**
 * Checks that an MTP file belongs to the same model as the trunk, so that llama.cpp can read both as one.
 *
 * @throws MimoException.ModelLoad It does not, or one of the files does not say which part of a model it is.
 */
internal fun checkPair(trunk: GgufHeader, trunkModel: GgufModel, mtp: GgufHeader, mtpModel: GgufModel) {
    val same = listOf("mimo_mobile.pair", "$TOKENIZER.token_type").map { it to it } +
        (GgufRules.COMMON.keys - "block_count").map { "${GgufRules.TRUNK}.$it" to "${GgufRules.MTP}.$it" }
    val differs = same.any { (first, second) -> trunk.fingerprint(first) != mtp.fingerprint(second) }
    if (trunkModel.layers != mtpModel.layers || mtpModel.hasTrunk || differs) {
        throw MimoException.ModelLoad("${mtp.file}: belongs to another model than ${trunk.file.name}; quantize both together")
    }
    val tensors = (trunk.tensors.size + mtp.tensors.size).toLong()
    val expected = listOf(
        SplitKey(trunk, "split.no", "uint16", 1), SplitKey(mtp, "split.no", "uint16", 0),
        SplitKey(mtp, SPLIT_COUNT, "uint16", 2), SplitKey(mtp, "split.tensors.count", "int32", tensors),
    )
    for (each in expected) {
        val (kind, value) = Pair(each.header.kind(each.key), each.header.value(each.key))
        if (kind != each.kind || value != each.value) {
            throw MimoException.ModelLoad(
                "${each.header.file}: ${each.key} ${shownValue(value)} ($kind) found, ${each.value} (${each.kind}) expected," +
                    " without which llama.cpp does not read trunk and MTP layer as one model; llama-quantize leaves it out:" +
                    " quantize both together with `mimo quantize`, or take Speculation.OFF",
            )
        }
    }
}

private class SplitKey(val header: GgufHeader, val key: String, val kind: String, val value: Long)

/**
 * What a file says that its model computes for a known prompt; null when it says nothing.
 *
 * @throws MimoException.ModelLoad It is no prompt, or no logits, of this model.
 */
internal fun referenceIn(header: GgufHeader, model: GgufModel): Reference? {
    val names = listOf("tokens", "top", "logits").map { "mimo_mobile.reference.$it" }
    if (names.none { header.count(it) > 0 }) return null
    val (ids, topIds) = names.take(2).map(header::integers)
    val logits = header.floats(names.last()).map { it.toDouble() }.toDoubleArray()
    val problem = try {
        Reference(ids, topIds, logits).checked()
        if ((ids + topIds).any { it !in 0 until model.vocabSize } || logits.any { !it.isFinite() }) "no token or logit of it" else null
    } catch (error: JsonException) {
        error.message
    }
    if (problem != null) {
        throw MimoException.ModelLoad("${header.file}: the known prompt: $problem; download or convert it again")
    }
    return Reference(ids, topIds, logits)
}

/** A value of the file, as messages show it. */
private fun shownValue(value: Any?): String = shown(if (value is String) "'$value'" else "$value")

internal const val TOKENIZER: String = "tokenizer.ggml"
internal const val CHAT_TEMPLATE: String = "tokenizer.chat_template"
private const val SPLIT_COUNT = "split.count"
private const val LARGEST_QUERY_KEY = "mimo_mobile.largest_query_key"

/** Tables for many more would fill an app's memory; MiMo-7B has 151,680. */
private const val MOST_IDS = 1 shl 20

/** At most so many characters; MiMo-7B's longest token has 256, and its template 2,500. */
private const val MOST_TOKEN = 4096
private const val MOST_TEMPLATE = 1_000_000
