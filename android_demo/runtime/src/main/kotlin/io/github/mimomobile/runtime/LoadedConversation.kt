package io.github.mimomobile.runtime

import io.github.mimomobile.runtime.decode.Decoder
import io.github.mimomobile.runtime.files.ConversationReader

/** The conversation in a file, on an engine that has [model]; its keys and values are put into the KV cache. */
internal fun ConversationReader.conversation(
    engine: Engine,
    model: LoadedModel,
    decoder: Decoder,
    config: GenerationConfig,
    textOnly: Boolean,
): Conversation {
    val text = config.seed?.let { header.text.copy(seed = it) } ?: header.text
    val cut = header.cutThinks?.let { Cut(text.turns.dropLast(1), text.turns.last(), it) }
    val made = Conversation(engine, header.system, config, header.keepThinking, header.whenFull, text, cut)
    val isText = textOnly || tokenCount == 0L
    if (!isText) checkGoesWith(model)
    verify()
    if (isText) return made
    val (ids, arrays) = state(model.tokenizer.size)
    try {
        decoder.adopt(ids, arrays)
    } catch (error: MimoException.ConversationFile) {
        throw MimoException.ConversationFile("$file: ${error.message}; with textOnly = true the text alone is loaded", error)
    }
    return made
}

private fun ConversationReader.checkGoesWith(model: LoadedModel) {
    val advice = "load that model, or the text alone with textOnly = true"
    val (expected, perToken) = Pair(model.fingerprint, model.backend.kvBytesPerToken)
    if (header.model != expected) {
        throw MimoException.ConversationFile(
            "$file: saved with another model (SHA-256 ${header.model.take(12)}… found, ${expected.take(12)}… expected); $advice",
        )
    }
    if (header.kvBytesPerToken != perToken) {
        throw MimoException.ConversationFile(
            "$file: saved with another type of KV cache (${header.kvBytesPerToken} bytes a token found, $perToken expected);" +
                " load the model with the kvCache of then, or the text alone with textOnly = true",
        )
    }
    val limit = model.info.contextLength
    if (tokenCount > limit) {
        throw MimoException.ContextFull(
            "$file: the conversation has $tokenCount tokens, the context holds $limit; load the model with a larger" +
                " contextLength, or the text alone with textOnly = true",
        )
    }
    // The MTP layer has one layer's keys and values, which are at most as large as the trunk's.
    val most = 2 * tokenCount * (perToken + 64) + MOST_WAITING_BYTES
    if (arrayBytes > most) refuse("$arrayBytes bytes of keys and values found, $most are the most for $tokenCount tokens")
}

/** Of what waits for the MTP layer, at most. */
private const val MOST_WAITING_BYTES = 64_000_000L
