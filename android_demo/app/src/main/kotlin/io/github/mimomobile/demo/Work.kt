package io.github.mimomobile.demo

import io.github.mimomobile.demo.bench.BenchmarkUiState
import io.github.mimomobile.demo.chat.ChatUiState
import io.github.mimomobile.demo.models.LoadState
import io.github.mimomobile.demo.models.ModelTask
import io.github.mimomobile.demo.models.ModelsUiState

/** Work that the user waits for, as its notification shows it; [fraction] is null where nobody knows. */
data class Work(val kind: Kind, val fraction: Float? = null, val tokens: Int = 0) {
    enum class Kind(val title: Int, val canStop: Boolean = true) {
        LOAD(R.string.work_load, canStop = false),
        ANSWER(R.string.work_answer),
        BENCHMARK(R.string.work_benchmark),
        IMPORT(R.string.work_import),
        VERIFY(R.string.work_verify),
    }
}

fun workOf(chat: ChatUiState, models: ModelsUiState, benchmark: BenchmarkUiState): Work? {
    val task = models.task // unpacking takes a second, and is not shown
    val answer = chat.conversation.exchanges.lastOrNull()?.answer
    return when {
        chat.generating -> Work(Work.Kind.ANSWER, tokens = answer?.tokens ?: 0)
        benchmark.running != null -> Work(Work.Kind.BENCHMARK, benchmark.running.fraction)
        task?.kind == ModelTask.Kind.IMPORT -> Work(Work.Kind.IMPORT, task.fraction)
        task?.kind == ModelTask.Kind.VERIFY -> Work(Work.Kind.VERIFY, task.fraction)
        else -> loading(models.load)
    }
}

/** The first load of MiMo-7B takes minutes: every byte is verified, and the weights are put in this CPU's order. */
private fun loading(load: LoadState): Work? {
    if (load !is LoadState.Loading || load.totalBytes < LONG_LOAD_BYTES) return null
    val fraction = load.doneBytes.toFloat() / load.totalBytes
    return Work(Work.Kind.LOAD, fraction.takeIf { it < 1 })
}

private const val LONG_LOAD_BYTES = 500_000_000L
