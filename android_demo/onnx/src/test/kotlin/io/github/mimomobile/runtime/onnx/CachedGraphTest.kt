package io.github.mimomobile.runtime.onnx

import ai.onnxruntime.OnnxJavaType
import ai.onnxruntime.OrtSession
import io.github.mimomobile.runtime.EngineConfig
import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.nanoOnnx
import java.io.File
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder

class CachedGraphTest {
    @get:Rule
    val temporary: TemporaryFolder = TemporaryFolder()

    private val runtime = OrtRuntime(EngineConfig { threads = 1 })
    private val file = File(nanoOnnx, "model.onnx")

    private fun graph(length: Int = 64) = CachedGraph(runtime, file, length, 2) {}

    private fun CachedGraph.row(row: Int) = FloatArray(logitsSize).also {
        logits.buffer.duplicate().apply { position(row * logitsSize) }.get(it)
    }

    @Test
    fun `what was put in the cache before counts, and what is overwritten does not`() = graph().use { graph ->
        val ids = intArrayOf(40, 50, 60, 70)
        graph.run(ids, 0, 4, 0)
        val whole = graph.row(1)
        graph.run(ids, 0, 3, 0)
        graph.run(intArrayOf(99), 0, 1, 3)
        graph.run(ids, 3, 1, 3)
        assertArrayEquals(whole, graph.row(0), 2e-2f)
        graph.run(ids, 2, 2, 1)
        assertTrue(whole.indices.any { kotlin.math.abs(whole[it] - graph.row(1)[it]) > 0.1f })
    }

    @Test
    fun `tensors of zeros have the type and shape asked for`() {
        for (type in listOf(OnnxJavaType.FLOAT, OnnxJavaType.FLOAT16, OnnxJavaType.INT8)) {
            ZeroTensors(runtime.environment, type).use { zeros ->
                zeros.make(longArrayOf(1, 2, 33, 5)).use {
                    assertEquals(type, it.info.type)
                    assertArrayEquals(longArrayOf(1, 2, 33, 5), it.info.shape)
                    assertTrue(it.byteBuffer.array().all { byte -> byte == 0.toByte() })
                    assertEquals(330 * type.size, it.byteBuffer.remaining())
                }
            }
        }
    }

    @Test
    fun `another graph is an error that says what it has`() {
        val error = assertThrows(MimoException.ModelLoad::class.java) {
            CachedGraph(runtime, File(nanoOnnx, "mtp.onnx"), 64, 1) {}
        }
        assertTrue(error.message!!, "inputs input_ids, hidden_states, attention_mask and 2 of" in error.message!!)
    }

    @Test
    fun `a profile tells which provider computes how many nodes`() {
        assertEquals(emptyMap<String, Int>(), graph().use { it.placement() })
        OrtSession.SessionOptions().use { options ->
            options.enableProfiling(File(temporary.root, "profile").path)
            runtime.environment.createSession(file.path, options).use { session ->
                val zeros = ZeroTensors(runtime.environment, OnnxJavaType.FLOAT16)
                val row = LongRow(runtime.environment, 8).apply { buffer.put(0, 1) }
                val names = session.inputNames.filter { "past" in it }
                val past = names.associateWith { zeros.make(longArrayOf(1, 2, 8, 64)) }
                val ids = mapOf("input_ids" to row.tensor(1), "attention_mask" to row.tensor(8))
                session.run(past + ids).close()
                (past.values + zeros + row).forEach { it.close() }
                val found = readPlacement(File(session.endProfiling()))
                assertEquals(setOf("CPUExecutionProvider"), found.keys)
                assertTrue("$found", found.values.single() in 40..200)
            }
        }
    }
}
