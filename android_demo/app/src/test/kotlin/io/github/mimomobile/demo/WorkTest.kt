package io.github.mimomobile.demo

import io.github.mimomobile.demo.bench.BenchmarkUiState
import io.github.mimomobile.demo.chat.ChatUiState
import io.github.mimomobile.demo.chat.Chat
import io.github.mimomobile.demo.models.LoadState
import io.github.mimomobile.demo.models.ModelTask
import io.github.mimomobile.demo.models.ModelsUiState
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Test

/** What the service holds the process for. */
class WorkTest {
    private val chat = ChatUiState(Chat("id", 0))

    @Test
    fun `the load of a large model is work, with a fraction until all is verified`() {
        assertEquals(Work(Work.Kind.LOAD, 0.5f), loading(2_500_000_000, 5_000_000_000))
        assertEquals(Work(Work.Kind.LOAD, null), loading(5_000_000_000, 5_000_000_000))
        assertNull(loading(0, 4_000_000))
        assertNull(loading(0, 0))
    }

    @Test
    fun `an answer counts before an import`() {
        val models = ModelsUiState(task = ModelTask(ModelTask.Kind.IMPORT, "mimo", 1, 4))
        assertEquals(Work(Work.Kind.IMPORT, 0.25f), workOf(chat, models, BenchmarkUiState()))
        assertEquals(Work.Kind.ANSWER, workOf(chat.copy(generating = true), models, BenchmarkUiState())?.kind)
    }

    private fun loading(done: Long, total: Long) =
        workOf(chat, ModelsUiState(load = LoadState.Loading("path", "mimo", done, total)), BenchmarkUiState())
}
