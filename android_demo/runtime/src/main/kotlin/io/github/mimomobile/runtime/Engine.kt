package io.github.mimomobile.runtime

import io.github.mimomobile.runtime.decode.ArrayType
import io.github.mimomobile.runtime.decode.Constraint
import io.github.mimomobile.runtime.decode.Cooling
import io.github.mimomobile.runtime.decode.Decoder
import io.github.mimomobile.runtime.decode.FreeUntilCall
import io.github.mimomobile.runtime.decode.Generation
import io.github.mimomobile.runtime.decode.StateArray
import io.github.mimomobile.runtime.decode.StructuredAnswer
import io.github.mimomobile.runtime.decode.Turn
import io.github.mimomobile.runtime.files.ConversationHeader
import io.github.mimomobile.runtime.files.ConversationReader
import io.github.mimomobile.runtime.files.TOKENS
import io.github.mimomobile.runtime.files.writeConversation
import io.github.mimomobile.runtime.grammar.Grammars
import io.github.mimomobile.runtime.text.ChatTemplate
import io.github.mimomobile.runtime.text.ThinkingSplitter
import io.github.mimomobile.runtime.text.Tokenizer
import java.io.File
import java.io.IOException
import java.security.SecureRandom
import java.util.SplittableRandom
import java.util.concurrent.Executors
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.CoroutineStart
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.asCoroutineDispatcher
import kotlinx.coroutines.awaitCancellation
import kotlinx.coroutines.channels.Channel as Queue
import kotlinx.coroutines.ensureActive
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.asStateFlow
import kotlinx.coroutines.flow.buffer
import kotlinx.coroutines.flow.catch
import kotlinx.coroutines.flow.channelFlow
import kotlinx.coroutines.flow.emitAll
import kotlinx.coroutines.flow.flow
import kotlinx.coroutines.flow.flowOn
import kotlinx.coroutines.flow.update
import kotlinx.coroutines.job
import kotlinx.coroutines.launch
import kotlinx.coroutines.withContext

/** [MimoEngine] by whatever loads one of [formats]; it knows none of their libraries. */
internal class Engine(private val formats: Formats = Formats.ofThisApp) : MimoEngine {
    private val executor = Executors.newSingleThreadExecutor { Thread(it, "mimo-engine").apply { isDaemon = true } }
    private val dispatcher = executor.asCoroutineDispatcher()
    private val current = MutableStateFlow<EngineState>(EngineState.Empty)

    @Volatile
    private var loaded: Loaded? = null

    /** The generation that is under way, or was the last. */
    @Volatile
    private var turn: Turn? = null

    /** Whether a conversation that is being saved or loaded waits no longer for the sum of a model's file. */
    @Volatile
    private var stopped = false
    private val lock = Any()

    override val state: StateFlow<EngineState> = current.asStateFlow()

    override suspend fun load(model: File, config: EngineConfig) {
        claim(EngineState.Loading(0, 0))
        var format: ModelFormat? = null
        try {
            withContext(dispatcher) {
                free()
                val (source, itsFormat) = formats.find(model, config.recipe)
                format = itsFormat
                val opened = itsFormat.load(source, config) { done, total ->
                    ensureActive()
                    checkOpen()
                    become(EngineState.Loading(done, total))
                }
                loaded = try {
                    val cooling = Cooling(config.heat, ::showHeat)
                    Loaded(opened, Decoder(opened.backend, opened.name, config.speculation, cooling))
                } catch (error: Throwable) {
                    opened.close()
                    throw error
                }
                config.info("${opened.name} is loaded${loaded?.decoder?.costs?.let { ": $it" }.orEmpty()}.")
            }
        } catch (error: Throwable) {
            val told = loadError(model, error, format) ?: throw error
            become(EngineState.Failed(told))
            throw told
        } finally {
            val info = loaded?.model?.info
            if (current.value is EngineState.Loading) become(info?.let(EngineState::Ready) ?: EngineState.Empty)
        }
    }

    override suspend fun unload() {
        checkOpen()
        withContext(dispatcher) {
            claim(EngineState.Empty)
            free()
        }
    }

    override fun generate(prompt: Prompt, config: GenerationConfig): Flow<GenerationEvent> = flow {
        checkOpen() // a closed dispatcher would cancel the caller
        emitAll(events(prompt, config).catch { throw if (it is Closing) closed() else it })
    }

    private fun events(prompt: Prompt, config: GenerationConfig): Flow<GenerationEvent> = channelFlow {
        val (model, decoder) = opened()
        val ids = encode(model, prompt, config)
        val splitter = ThinkingSplitter().apply { resume(opening(prompt, config)) }
        val structured = structured(model, prompt, config, splitter.state == ThinkingSplitter.State.START)
        val random = config.seed?.let(::SplittableRandom) ?: SplittableRandom()
        val job = coroutineContext.job
        val turn = try {
            claim(EngineState.Generating(model.info)) { Turn(decoder, job).also { turn = it } }
        } catch (error: Throwable) {
            structured?.close()
            throw error
        }
        // Ends a run inside a native library, which knows nothing of coroutines.
        val watch = launch(Dispatchers.Unconfined, CoroutineStart.UNDISPATCHED) {
            try {
                awaitCancellation()
            } finally {
                turn.cancel()
            }
        }
        try {
            val room = model.info.contextLength - ids.size
            val generation = Generation(model.tokenizer, config, splitter, ids, room, structured, random::nextDouble)
            decoder.run(ids, generation) { send(it) }
        } finally {
            structured?.close()
            watch.cancel()
            turn.end()
            become(EngineState.Ready(model.info))
        }
    }.buffer(Queue.RENDEZVOUS).flowOn(dispatcher)

    override fun stop() {
        stopped = true
        turn?.cancel()
    }

    override fun countTokens(prompt: Prompt): Int = countTokens(prompt, GenerationConfig())

    /** How many tokens a prompt has where the answer is generated by [config]. */
    fun countTokens(prompt: Prompt, config: GenerationConfig): Int = encode(opened().model, prompt, config).size

    /** The same on another thread than the caller's, which may be the one that draws: long texts take their time. */
    suspend fun counted(prompt: Prompt, config: GenerationConfig): Int =
        withContext(Dispatchers.Default) { countTokens(prompt, config) }

    /** Tokens of prompt and answer together. */
    val contextLength: Int get() = opened().model.info.contextLength

    override fun conversation(
        system: String,
        config: GenerationConfig,
        keepThinking: Boolean,
        whenFull: WhenFull,
    ): Conversation {
        val seed = config.seed ?: SecureRandom().nextLong()
        return Conversation(this, system, config, keepThinking, whenFull, ConversationText(emptyList(), 0, seed, 0))
    }

    override fun close() {
        synchronized(lock) {
            if (current.value == EngineState.Closed) return
            current.value = EngineState.Closed
        }
        turn?.job?.cancel(Closing())
        // Queued behind what the thread is doing.
        CoroutineScope(dispatcher).launch { free() }.invokeOnCompletion { dispatcher.close() }
    }

    private fun free() {
        loaded?.model?.close()
        loaded = null
    }

    /** A closed engine stays closed. */
    private fun become(state: EngineState) = current.update { if (it == EngineState.Closed) it else state }

    private fun showHeat(heat: Heat) =
        current.update { if (it is EngineState.Generating) it.copy(heat = heat) else it }

    override suspend fun loadConversation(file: File, config: GenerationConfig?, textOnly: Boolean): Conversation =
        alone { (model, decoder) ->
            ConversationReader(file).use { it.conversation(this, model, decoder, config ?: GenerationConfig(), textOnly) }
        }

    /** Writes a conversation; [prompt] is what the next question's begins with. */
    suspend fun save(file: File, prompt: Prompt, config: GenerationConfig, header: (LoadedModel) -> ConversationHeader) =
        alone { (model, decoder) ->
            val (ids, arrays) = decoder.kept(encode(model, prompt, config))
            val tokens = StateArray.of(TOKENS, ArrayType.I32, ids.size.toLong()) { it.asIntBuffer().put(ids) }
            writeConversation(file, header(model), listOf(tokens) + arrays)
        }

    /** Does something with the model while nothing is generated. */
    private suspend fun <T> alone(work: (Loaded) -> T): T {
        checkOpen()
        return withContext(dispatcher) {
            val opened = opened()
            claim(EngineState.Generating(opened.model.info)) { stopped = false }
            opened.model.goOn = {
                ensureActive()
                checkOpen()
                if (stopped) {
                    throw MimoException.WrongState("stopped while the model's file was read for its SHA-256; try again")
                }
            }
            try {
                work(opened)
            } finally {
                opened.model.goOn = {}
                become(EngineState.Ready(opened.model.info))
            }
        }
    }

    private fun encode(model: LoadedModel, prompt: Prompt, config: GenerationConfig): IntArray {
        val messages = when (prompt) {
            is Prompt.Text -> return model.tokenizer.encode(prompt.text)
            is Prompt.Chat -> prompt.messages
            is Prompt.Continued -> prompt.messages
        }
        if (!model.info.hasChatTemplate) {
            throw MimoException.ModelLoad("${model.info.name}: no ChatML template; give Prompt.Text instead")
        }
        return model.tokenizer.encode(ChatTemplate.render(messages, opening(prompt, config), config.callableTools))
    }

    /** What restricts the answer; null when nothing does. */
    private fun structured(model: LoadedModel, prompt: Prompt, config: GenerationConfig, thinks: Boolean): StructuredAnswer? {
        if (!config.isRestricted) return null
        require(prompt !is Prompt.Continued || prompt.thinking.isEmpty() && prompt.answer.isEmpty()) {
            "an answer that is continued cannot keep to a structure or tools; ask it anew"
        }
        val grammars = model.grammars
        val matcher = config.structure?.let(grammars::matcher) ?: grammars.calls(config, model.tokenizer)
        return StructuredAnswer(matcher, model.tokenizer, thinks)
    }

    private fun Grammars.calls(config: GenerationConfig, tokenizer: Tokenizer): Constraint {
        val tools = config.callableTools
        val several = config.parallelToolCalls && config.toolChoice in Tool.CHOICES
        if (config.toolChoice != "auto") return calls(tools, atOnce = true, several)
        calls(tools, atOnce = false, several).close() // what is wrong is said before anything is generated
        return FreeUntilCall(tokenizer) { calls(tools, atOnce = false, several) }
    }

    /** What the assistant's turn has said before anything is generated. */
    private fun opening(prompt: Prompt, config: GenerationConfig): String = when (prompt) {
        is Prompt.Text -> if (config.isRestricted) ChatTemplate.opening(thinking = false) else ""
        is Prompt.Chat -> ChatTemplate.opening(config.thinks)
        is Prompt.Continued -> ChatTemplate.opening(config.thinks, prompt.thinking, prompt.answer)
    }

    private fun opened(): Loaded {
        checkOpen()
        return loaded ?: throw MimoException.WrongState("no model is loaded; call load first")
    }

    private fun checkOpen() {
        if (current.value == EngineState.Closed) throw closed()
    }

    private fun closed() = MimoException.WrongState("the engine is closed")

    private fun claim(state: EngineState) = claim(state) {}

    /**
     * Begins something that only one caller at a time may do; a second one gets an error, not a queue.
     *
     * @param prepare Called before the state is shown.
     */
    private fun <T> claim(state: EngineState, prepare: () -> T): T = synchronized(lock) {
        checkOpen()
        if (current.value.let { it is EngineState.Loading || it is EngineState.Generating }) {
            throw MimoException.WrongState("the engine is busy; stop it first, or make a second one")
        }
        prepare().also { current.value = state }
    }

    /** What an error while loading is for users; null of one that is not ours to explain. */
    private fun loadError(model: File, error: Throwable, format: ModelFormat?): MimoException? = when (error) {
        is MimoException -> error
        is OutOfMemoryError ->
            MimoException.MemoryFull("$model: no memory is left (${reason(error)}); take a smaller model or context", error)
        else -> format?.explain(model, error) ?: when (error) {
            is IOException -> MimoException.ModelLoad("$model: cannot be read (${reason(error)}); copy it again", error)
            is Error -> MimoException.ModelLoad("$model: cannot be loaded (${reason(error)})", error)
            else -> null
        }
    }

    /** Cancels a generation because of [close], in a way that its collector can be told. */
    private class Closing : CancellationException("the engine was closed")

    private data class Loaded(val model: LoadedModel, val decoder: Decoder)
}

/** What an error says first, of it or of its causes. */
internal fun reason(error: Throwable): String =
    generateSequence(error) { it.cause }.firstNotNullOfOrNull { it.message } ?: error.javaClass.simpleName
