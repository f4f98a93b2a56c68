package io.github.mimomobile.runtime

import io.github.mimomobile.runtime.decode.Backend
import io.github.mimomobile.runtime.files.KeptSums
import io.github.mimomobile.runtime.files.ModelSource
import io.github.mimomobile.runtime.files.hexadecimal
import io.github.mimomobile.runtime.files.identityOf
import io.github.mimomobile.runtime.files.sha256
import io.github.mimomobile.runtime.grammar.Grammars
import io.github.mimomobile.runtime.text.Tokenizer
import java.io.File
import java.security.MessageDigest

/** Told how much of how much is done; may throw to give up. */
internal typealias Progress = (doneBytes: Long, totalBytes: Long) -> Unit

/**
 * A file with weights, or the graph that reads them, as it was loaded.
 *
 * @param known Its SHA-256 as the manifest has it; null of a file without one, which is read then.
 * @param kept Where the SHA-256 of a file that was read is remembered; null remembers none.
 */
internal class WeightFile(private val file: File, private val known: String?, private val kept: KeptSums? = null) {
    private val loaded = stamp()
    private val identity = if (known == null && kept != null) identityOf(file) else null

    /**
     * Its SHA-256 in hexadecimal.
     *
     * @param goOn Called again and again while the file is read, which takes seconds; may throw to give up.
     * @throws MimoException.WrongState It is to be read, and another file is there by now.
     */
    fun sha256(goOn: () -> Unit): String {
        if (known != null) return known
        sure()?.let { kept?.recall(it) }?.let { return it }
        val found = sha256(file) { goOn() }
        if (stamp() != loaded) {
            throw MimoException.WrongState("$file: another file is there than was loaded; load the model again")
        }
        sure()?.let { kept?.keep(it, found) }
        return found
    }

    /** Its identity, if that is still the one of what was loaded. */
    private fun sure(): String? = identity?.takeIf { identityOf(file) == it }

    private fun stamp() = Pair(file.length(), file.lastModified())
}

/**
 * A model that is ready, and what is known of it.
 *
 * @param weights The files that decide what the trunk computes.
 */
internal class LoadedModel(
    val info: ModelInfo,
    val tokenizer: Tokenizer,
    val backend: Backend,
    private val weights: List<WeightFile> = emptyList(),
) : AutoCloseable {
    /** What structures come to with its tokenizer. */
    val grammars: Grammars = Grammars(tokenizer)

    /** Called again and again while files are read for [fingerprint]; may throw to give up. */
    var goOn: () -> Unit = {}

    /** SHA-256 of the SHA-256s of the files that decide what the trunk computes. */
    val fingerprint: String by lazy {
        val whole = MessageDigest.getInstance("SHA-256")
        for (each in weights) {
            whole.update(each.sha256(goOn).chunked(2).map { it.toInt(16).toByte() }.toByteArray())
        }
        hexadecimal(whole.digest())
    }

    /** Which model computes on what, for errors. */
    val name: String get() = "${info.name} in ${info.recipe} on ${info.provider}"

    override fun close() = backend.close()
}

/**
 * Files of one kind, and the library that computes with them. Each module with an engine has one, which Java's
 * ServiceLoader finds by META-INF/services: an app loads what it has the modules for.
 */
internal interface ModelFormat {
    /** As manifests name it. */
    val name: String

    /**
     * Verifies and opens a model of this format.
     *
     * @param progress Told how many bytes of how many were verified.
     */
    fun load(source: ModelSource, config: EngineConfig, progress: Progress): LoadedModel

    /** What an error while [path] was loaded is for users; null of one that says nothing of this format's library. */
    fun explain(path: File, error: Throwable): MimoException?
}
