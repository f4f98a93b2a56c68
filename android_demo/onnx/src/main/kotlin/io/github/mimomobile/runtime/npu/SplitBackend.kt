package io.github.mimomobile.runtime.npu

import io.github.mimomobile.runtime.decode.Backend
import io.github.mimomobile.runtime.decode.Cancelled
import io.github.mimomobile.runtime.decode.MtpHead
import io.github.mimomobile.runtime.decode.StateArray
import io.github.mimomobile.runtime.onnx.OrtBackend

/**
 * Computes prompts on the NPU, which is fast with many rows, and tokens on the CPU, in the same KV cache.
 *
 * @param cpu Was made on the caches of [npu], and its MTP layer is shown what both compute.
 */
internal class SplitBackend(private val npu: NpuBackend, private val cpu: OrtBackend) : Backend {
    init {
        npu.show(cpu.mtp)
    }

    override val contextLength: Int get() = npu.contextLength

    override val mtp: MtpHead? get() = cpu.mtp

    override fun decode(ids: IntArray, position: Int, rows: Int): List<FloatArray> {
        val reach = npu.model.reach(ids.size - rows, position)
        val prompt = if (reach >= npu.model.npu.windows[0] / 2) reach else 0
        if (prompt > 0) npu.decode(ids.copyOf(prompt), position, rows = 0)
        return try {
            cpu.decode(ids.copyOfRange(prompt, ids.size), position + prompt, rows)
        } catch (cut: Cancelled) {
            throw Cancelled(prompt + cut.computed)
        }
    }

    override fun forget() {
        npu.forget()
        cpu.bindCache()
    }

    override val kvBytesPerToken: Long get() = cpu.kvBytesPerToken

    override fun state(tokens: Int): List<StateArray> = cpu.state(tokens)

    override fun restore(arrays: List<StateArray>, tokens: Int) = cpu.restore(arrays, tokens)

    override fun cancel() {
        npu.cancel()
        cpu.cancel()
    }

    override fun renew() {
        npu.renew()
        cpu.renew()
    }

    override fun close() {
        cpu.close()
        npu.close()
    }
}
