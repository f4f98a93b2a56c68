package io.github.mimomobile.runtime

import ai.onnxruntime.OrtException
import io.github.mimomobile.runtime.decode.Cooling
import io.github.mimomobile.runtime.decode.Decoder
import io.github.mimomobile.runtime.decode.Generation
import io.github.mimomobile.runtime.decode.Turn
import io.github.mimomobile.runtime.onnx.LoadedModel
import io.github.mimomobile.runtime.onnx.ModelLoader
import io.github.mimomobile.runtime.text.ChatTemplate
import io.github.mimomobile.runtime.text.ThinkingSplitter
import java.io.File
import java.io.IOException
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

/** [MimoEngine] by ONNX Runtime. */
internal class OnnxEngine : MimoEngine {
    private val executor = Executors.newSingleThreadExecutor { Thread(it, "mimo-engine").apply { isDaemon = true } }
    private val dispatcher = executor.asCoroutineDispatcher()
    private val current = MutableStateFlow<EngineState>(EngineState.Empty)

    @Volatile
    private var loaded: Loaded? = null

    /** The generation that is under way, or was the last. */
    @Volatile
    private var turn: Turn? = null
    private val lock = Any()

    override val state: StateFlow<EngineState> = current.asStateFlow()

    override suspend fun load(folder: File, config: EngineConfig) {
        claim(EngineState.Loading(0, 0))
        try {
            withContext(dispatcher) {
                free()
                val model = ModelLoader(folder, config).load { done, total ->
                    ensureActive()
                    checkOpen()
                    become(EngineState.Loading(done, total))
                }
                loaded = try {
                    val cooling = Cooling(config.heat, ::showHeat)
                    Loaded(model, Decoder(model.backend, model.name, config.speculation, cooling))
                } catch (error: Throwable) {
                    model.close()
                    throw error
                }
                config.info("${model.name} is loaded${loaded?.decoder?.costs?.let { ": $it" }.orEmpty()}.")
            }
        } catch (error: Throwable) {
            val told = loadError(folder, error) ?: throw error
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
        val random = config.seed?.let(::SplittableRandom) ?: SplittableRandom()
        val job = coroutineContext.job
        val turn = claim(EngineState.Generating(model.info)) { Turn(decoder, job).also { turn = it } }
        // Ends a run inside ONNX Runtime, which knows nothing of coroutines.
        val watch = launch(Dispatchers.Unconfined, CoroutineStart.UNDISPATCHED) {
            try {
                awaitCancellation()
            } finally {
                turn.cancel()
            }
        }
        try {
            val room = model.info.contextLength - ids.size
            decoder.run(ids, Generation(model.tokenizer, config, splitter, ids, room, random::nextDouble)) { send(it) }
        } finally {
            watch.cancel()
            turn.end()
            become(EngineState.Ready(model.info))
        }
    }.buffer(Queue.RENDEZVOUS).flowOn(dispatcher)

    override fun stop() {
        turn?.cancel()
    }

    override fun countTokens(prompt: Prompt): Int = encode(opened().model, prompt, GenerationConfig()).size

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

    private fun encode(model: LoadedModel, prompt: Prompt, config: GenerationConfig): IntArray {
        val messages = when (prompt) {
            is Prompt.Text -> return model.tokenizer.encode(prompt.text)
            is Prompt.Chat -> prompt.messages
            is Prompt.Continued -> prompt.messages
        }
        if (!model.info.hasChatTemplate) {
            throw MimoException.ModelLoad("${model.info.name}: no ChatML template; give Prompt.Text instead")
        }
        return model.tokenizer.encode(ChatTemplate.render(messages, opening(prompt, config)))
    }

    /** What the assistant's turn has said before anything is generated. */
    private fun opening(prompt: Prompt, config: GenerationConfig): String = when (prompt) {
        is Prompt.Text -> ""
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
    private fun loadError(folder: File, error: Throwable): MimoException? = when (error) {
        is MimoException -> error
        is OutOfMemoryError ->
            MimoException.MemoryFull("$folder: no memory is left (${reason(error)}); take a smaller model or context", error)
        is LinkageError -> MimoException.ModelLoad(
            "$folder: ONNX Runtime's native library cannot be loaded on this device (${reason(error)}); the app needs" +
                " onnxruntime-android, whole and for this device's ABI",
            error,
        )
        is IOException -> MimoException.ModelLoad("$folder: cannot be read (${reason(error)}); copy it again", error)
        is OrtException, is Error -> MimoException.ModelLoad("$folder: cannot be loaded (${reason(error)})", error)
        else -> null
    }

    private fun reason(error: Throwable): String =
        generateSequence(error) { it.cause }.firstNotNullOfOrNull { it.message } ?: error.javaClass.simpleName

    /** Cancels a generation because of [close], in a way that its collector can be told. */
    private class Closing : CancellationException("the engine was closed")

    private data class Loaded(val model: LoadedModel, val decoder: Decoder)
}
