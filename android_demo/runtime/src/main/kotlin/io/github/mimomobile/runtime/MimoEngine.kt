package io.github.mimomobile.runtime

import java.io.File
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.StateFlow

/**
 * MiMo on this device: one loaded model and one conversation's KV cache.
 *
 * ```
 * MimoEngine().use { engine ->
 *     engine.load(File(filesDir, "mimo"))
 *     engine.generate(Prompt.Chat(listOf(Message(Role.USER, "What is 25 + 17 * 3?")))).collect { event ->
 *         if (event is GenerationEvent.Token) print(event.text)
 *     }
 * }
 * ```
 *
 * What a prompt has in common with the conversation before is not computed again. All functions may be called from any
 * thread; one thread of the engine's own touches the model.
 */
public interface MimoEngine : AutoCloseable {
    /** What the engine is doing. */
    public val state: StateFlow<EngineState>

    /**
     * Loads a model, in place of the one before.
     *
     * @param model What `mimo quantize` wrote, a folder that holds manifest.json; or a GGUF file. The files are read by
     *   path and must stay.
     * @throws MimoException.ModelLoad A file is missing, damaged or no MiMo model, or what loads it is not in this app.
     * @throws MimoException.MemoryFull The model does not fit in the memory.
     * @throws MimoException.ProviderUnavailable The execution provider is not here and [EngineConfig.strict] is set.
     * @throws MimoException.WrongState A generation is under way, or the engine is closed.
     */
    public suspend fun load(model: File, config: EngineConfig = EngineConfig())

    /**
     * Frees the model and its memory; [load] brings it back. On Android `AndroidDevice.unloadWhenMemoryIsShort` calls it.
     *
     * @throws MimoException.WrongState A model is being loaded or generates, or the engine is closed.
     */
    public suspend fun unload()

    /**
     * What follows a prompt, token by token, once the flow is collected. Cancelling the collection ends decoding, in
     * the middle of a prompt too; what was computed stays for the next turn.
     *
     * The flow fails with [MimoException.WrongState] when nothing is loaded, another generation is under way or the
     * engine is closed meanwhile, with [MimoException.ContextFull] when the prompt alone fills the context, with
     * [MimoException.Numerics] when the model gives NaN or infinity, and with [MimoException.Inference]. Where
     * [GenerationConfig.structure] or [GenerationConfig.tools] say what cannot be followed it fails with
     * [MimoException.Unsupported], and with [IllegalArgumentException] where they are wrong or too complicated.
     */
    public fun generate(prompt: Prompt, config: GenerationConfig = GenerationConfig()): Flow<GenerationEvent>

    /**
     * A conversation in turns, which may be edited and forked: see [Conversation]. It outlives [unload] and [load].
     *
     * Several conversations may take turns on one engine: what the next prompt has in common with the tokens in the KV
     * cache is not computed again, and the rest is.
     *
     * @param system The system prompt; empty, as Xiaomi recommends.
     * @param config How to generate, where a turn does not say otherwise. Without a seed in it, one is drawn.
     * @param keepThinking Whether later prompts repeat the thinking of earlier turns; by default they leave it out.
     * @param whenFull What happens when a question does not fit into the context any more.
     */
    public fun conversation(
        system: String = "",
        config: GenerationConfig = GenerationConfig(),
        keepThinking: Boolean = false,
        whenFull: WhenFull = WhenFull.ERROR,
    ): Conversation

    /**
     * The conversation that [Conversation.save] or the Python library wrote, whose keys and values are not computed again.
     * The file must stay as it is meanwhile.
     *
     * @param file It may be anybody's: it is read as a file of a stranger.
     * @param config How to generate; a file says only whether an answer that was cut thinks. Without a seed in it, random
     *   numbers go on where they were.
     * @param textOnly Whether to read the text alone, for another model or KV cache, which then computes it anew.
     * @throws MimoException.ConversationFile The file is damaged, no conversation, or of another model or KV cache.
     * @throws MimoException.ContextFull What it holds does not fit into the context.
     * @throws MimoException.MemoryFull There is no memory for a copy of its keys and values; [textOnly] needs none.
     * @throws MimoException.Inference The engine's library failed.
     * @throws MimoException.WrongState Nothing is loaded, the engine is busy, stopped, or closed.
     */
    public suspend fun loadConversation(
        file: File,
        config: GenerationConfig? = null,
        textOnly: Boolean = false,
    ): Conversation

    /**
     * Ends the running generation within one token; its flow ends with [FinishReason.CANCELLED] and the statistics.
     *
     * The first conversation that is saved or loaded with a GGUF file alone waits until all of that file was read for
     * its SHA-256. This ends that, too, with [MimoException.WrongState].
     */
    public fun stop()

    /**
     * How many tokens a prompt has.
     *
     * @throws MimoException.WrongState Nothing is loaded.
     * @throws MimoException.ModelLoad The prompt is a chat and the model has no chat template that is known.
     */
    public fun countTokens(prompt: Prompt): Int

    /**
     * Ends the running generation, whose flow fails with [MimoException.WrongState], and frees the model soon after;
     * closing twice does no harm.
     */
    override fun close()
}

/** What an engine is doing. */
public sealed interface EngineState {
    /** Nothing is loaded. */
    public data object Empty : EngineState

    /**
     * Files are being verified, first the model's and then what [EngineConfig.cacheFolder] keeps of it: [doneBytes] of
     * [totalBytes]. When both are equal the model is being opened, and measured.
     */
    public data class Loading(val doneBytes: Long, val totalBytes: Long) : EngineState

    /** Ready to generate. */
    public data class Ready(val model: ModelInfo) : EngineState

    /** A generation is under way, on a device that is so hot; or a conversation is saved or loaded. */
    public data class Generating(val model: ModelInfo, val heat: Heat = Heat.NONE) : EngineState

    /** Loading failed; nothing is loaded. */
    public data class Failed(val error: MimoException) : EngineState

    /** The engine was closed. */
    public data object Closed : EngineState
}

/**
 * A loaded model.
 *
 * @property name Of the checkpoint.
 * @property recipe How it was quantized.
 * @property contextLength Tokens of prompt and answer together.
 * @property weightBytes Of all files with weights.
 * @property kvCacheBytes Of the KV cache, all tokens.
 * @property provider What computes.
 * @property fallback Why that is not what was asked for; null when it is.
 * @property placement How many of the trunk's nodes each provider computes, by ONNX Runtime's names, or how many layers
 *   of a GGUF file each device does, by llama.cpp's; empty for the CPU.
 * @property draftsWithMtp Whether the MTP layer is loaded.
 * @property hasChatTemplate Whether [Prompt.Chat] can be given.
 * @property synthetic The weights are random, the text means nothing.
 * @property mappedBytes Of weights that are mapped from [EngineConfig.cacheFolder] or from a GGUF file, which Android
 *   can take back; 0 when they are in memory.
 * @property threads Threads that compute on the CPU; null for an NPU's own.
 * @property npuMode What an NPU computes; null when it computes nothing.
 * @property selfTest What the test of an NPU's or a GPU's numbers found; null when there was none.
 */
public data class ModelInfo(
    val name: String,
    val recipe: String,
    val contextLength: Int,
    val weightBytes: Long,
    val kvCacheBytes: Long,
    val provider: ExecutionProvider,
    val fallback: String?,
    val placement: Map<String, Int>,
    val draftsWithMtp: Boolean,
    val hasChatTemplate: Boolean,
    val synthetic: Boolean,
    val mappedBytes: Long = 0,
    val threads: Int? = null,
    val npuMode: NpuMode? = null,
    val selfTest: String? = null,
)

/** An engine with nothing loaded; it must be closed. */
public fun MimoEngine(): MimoEngine = Engine()
