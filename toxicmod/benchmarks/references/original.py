"""The original design: a FastAPI endpoint over a pickled scikit-learn pipeline.

`python original.py COMMENTS.csv MODEL` fits it; `MODEL=… LOG=… uvicorn original:app` serves it.
"""

import logging
import os
import sys
from typing import Any

import joblib
import pandas as pd
from fastapi import FastAPI
from pydantic import BaseModel
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline

LABELS = ["toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate"]

app = FastAPI()
logging.basicConfig(filename=os.environ.get("LOG"), level=logging.INFO)
model = joblib.load(os.environ["MODEL"]) if "MODEL" in os.environ else None


class Comment(BaseModel):
    text: str


def predict_labels_and_probabilities(pipeline: Any, text: str) -> dict[str, dict[str, float]]:
    labels = pipeline.predict([text])[0]
    probabilities = [column[0, 1] for column in pipeline.predict_proba([text])]
    logging.info("predict_proba %s %s %s", text, labels, probabilities)
    return {
        "labels": dict(zip(LABELS, labels.tolist(), strict=True)),
        "probabilities": dict(zip(LABELS, map(float, probabilities), strict=True)),
    }


@app.post("/predict_proba")
def predict_proba(comment: Comment) -> dict[str, dict[str, float]]:
    return predict_labels_and_probabilities(model, comment.text)


@app.post("/loading")
def loading(comment: Comment) -> dict[str, dict[str, float]]:
    return predict_labels_and_probabilities(joblib.load(os.environ["MODEL"]), comment.text)


@app.post("/alone")
def alone(comment: Comment) -> dict[str, float]:
    """Return the probabilities without the labels."""
    probabilities = [column[0, 1] for column in model.predict_proba([comment.text])]
    logging.info("predict_proba %s %s", comment.text, probabilities)
    return dict(zip(LABELS, map(float, probabilities), strict=True))


if __name__ == "__main__":
    rows = pd.read_csv(sys.argv[1])
    pipeline = make_pipeline(
        TfidfVectorizer(max_features=10_000), MultiOutputClassifier(LogisticRegression(max_iter=1000))
    )
    pipeline.fit(rows["comment_text"], rows[LABELS])
    joblib.dump(pipeline, sys.argv[2])
